//! A source file as it is parsed: where a fault can be put, and what the file is like there.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Bytes of a file.
pub type Bytes = Range<usize>;

/// Where cargo-mutants puts its faults, by the first byte of what it replaces; and faults of our own.
#[derive(Debug, Default)]
pub struct Source {
    /// The text.
    pub text: String,
    /// Where lines begin.
    lines: Vec<usize>,
    /// Binary operators and unary ones: the whole expression, and its operands.
    pub operators: BTreeMap<usize, Operator>,
    /// Match arms.
    pub arms: BTreeMap<usize, Arm>,
    /// Guards of match arms.
    pub guards: BTreeMap<usize, Bytes>,
    /// Fields of struct expressions: the whole expression.
    pub fields: BTreeMap<usize, Bytes>,
    /// Functions: their blocks with braces, names, and the word `const`.
    pub functions: Vec<Function>,
    /// What is not compiled on this machine.
    pub foreign: Vec<Bytes>,
    /// Faults that cargo-mutants does not make.
    pub own: Vec<Own>,
    /// Enums by name: their variants without fields.
    pub enums: BTreeMap<String, Vec<String>>,
}

/// An operator with its operands.
#[derive(Debug)]
pub struct Operator {
    /// The whole expression.
    pub all: Bytes,
    /// The operator itself.
    pub sign: Bytes,
    /// It can be chosen at run time.
    pub is_free: bool,
    /// It joins a condition with `let`, which nothing else than `&&` can.
    pub joins_let: bool,
}

/// A match arm.
#[derive(Debug)]
pub struct Arm {
    /// Its pattern.
    pub pattern: Bytes,
    /// Its guard.
    pub guard: Option<Bytes>,
}

/// A function.
#[derive(Debug)]
pub struct Function {
    /// Its name, after that of its type.
    pub name: String,
    /// The whole of it.
    pub all: Bytes,
    /// The inside of its braces.
    pub inside: Bytes,
    /// The word `const`, if it has it.
    pub constness: Option<Bytes>,
    /// It returns `impl …`: which, if it does.
    pub opaque: Option<String>,
}

/// A fault of our own.
#[derive(Debug)]
pub struct Own {
    /// What is replaced.
    pub at: Bytes,
    /// By what; `None`: the statement is left out.
    pub by: Option<String>,
    /// In words.
    pub what: String,
}

/// Methods whose closure is a condition.
const CONDITIONS: [&str; 15] = [
    "all",
    "any",
    "extract_if",
    "filter",
    "find",
    "is_none_or",
    "is_ok_and",
    "is_some_and",
    "next_if",
    "partition",
    "position",
    "retain",
    "skip_while",
    "take_while",
    "then",
];

/// Methods with one argument that limit their receiver.
const LIMITS: [&str; 2] = ["max", "min"];

impl Source {
    /// Parses a file.
    pub fn parse(text: String) -> Result<Source> {
        let file = syn::parse_file(&text).context("cannot be parsed")?;
        let mut source = Source { lines: vec![0], text, ..Source::default() };
        source.lines.extend(source.text.match_indices('\n').map(|(at, _)| at + 1));
        let mut visitor = Visitor { source, owner: Vec::new(), fixed: 0 };
        visitor.visit_file(&file);
        Ok(visitor.source)
    }

    /// The byte at a line and column, both from 1 as cargo-mutants counts them.
    pub fn byte(&self, line: usize, column: usize) -> usize {
        let start = self.lines[line - 1];
        self.text[start..].char_indices().nth(column - 1).map_or(self.text.len(), |(at, _)| start + at)
    }

    /// The line of a byte, from 1.
    pub fn line(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte)
    }

    /// The beginning of what is there, on one line.
    pub fn shown(&self, at: &Bytes) -> String {
        let words: Vec<_> = self.text[at.clone()].split_whitespace().collect();
        let all = words.join(" ");
        match all.char_indices().nth(60) {
            Some((end, _)) => format!("{}…", &all[..end]),
            None => all,
        }
    }

    /// The innermost function around.
    pub fn function(&self, at: &Bytes) -> Option<&Function> {
        let around = self.functions.iter().filter(|function| holds(&function.all, at));
        around.min_by_key(|function| function.all.len())
    }
}

/// Whether a range is within another.
pub fn holds(outer: &Bytes, inner: &Bytes) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

struct Visitor {
    source: Source,
    /// Names of the types and functions around.
    owner: Vec<String>,
    /// Above zero: what is there is computed by the compiler.
    fixed: usize,
}

fn bytes(node: impl Spanned) -> Bytes {
    node.span().byte_range()
}

fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        syn::Expr::Paren(paren) => has_let(&paren.expr),
        _ => false,
    }
}

impl Visitor {
    fn own(&mut self, at: Bytes, by: impl Into<Option<String>>, what: String) {
        if self.fixed == 0 {
            self.source.own.push(Own { at, by: by.into(), what });
        }
    }

    fn condition(&mut self, expr: &syn::Expr, of: &str, values: &[&str]) {
        let is_value = matches!(expr, syn::Expr::Lit(_)) || has_let(expr);
        for value in values.iter().filter(|_| !is_value) {
            self.own(
                bytes(expr),
                value.to_string(),
                format!("{of} is {value}: {}", self.shown(&bytes(expr))),
            );
        }
    }

    fn shown(&self, at: &Bytes) -> String {
        self.source.shown(at)
    }

    /// Compiled only with this.
    fn cfg(&self, attrs: &[syn::Attribute], word: &str) -> bool {
        attrs.iter().any(|attr| {
            let text = &self.source.text[bytes(&attr.meta)];
            attr.path().is_ident("cfg") && text.contains(word) && !text.contains("not")
        })
    }

    fn function(&mut self, name: &syn::Ident, sig: &syn::Signature, block: &syn::Block, all: Bytes) {
        self.owner.push(name.to_string());
        let braces = bytes(block);
        let opaque =
            self.source.text[bytes(&sig.output)].split_once("impl ").map(|(_, what)| what.to_owned());
        self.source.functions.push(Function {
            name: self.owner.join("::"),
            all,
            inside: braces.start + 1..braces.end - 1,
            constness: sig.constness.as_ref().map(bytes),
            opaque,
        });
        self.owner.pop();
    }

    fn fixed(&mut self, visit: impl FnOnce(&mut Self)) {
        self.fixed += 1;
        visit(self);
        self.fixed -= 1;
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if !self.cfg(&node.attrs, "test") {
            visit::visit_item_mod(self, node);
        }
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        if self.cfg(&node.attrs, "test") {
            return;
        }
        if self.cfg(&node.attrs, "target_arch") {
            return self.source.foreign.push(bytes(node));
        }
        self.function(&node.sig.ident, &node.sig, &node.block, bytes(node));
        visit::visit_block(self, &node.block);
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        if self.cfg(&node.attrs, "test") {
            return;
        }
        self.function(&node.sig.ident, &node.sig, &node.block, bytes(node));
        visit::visit_block(self, &node.block);
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if let Some(block) = &node.default {
            self.function(&node.sig.ident, &node.sig, block, bytes(node));
            visit::visit_block(self, block);
        }
    }

    fn visit_item_impl(&mut self, node: &'ast syn::ItemImpl) {
        let name = match &*node.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        self.owner.push(name.unwrap_or_default());
        visit::visit_item_impl(self, node);
        self.owner.pop();
    }

    fn visit_item_enum(&mut self, node: &'ast syn::ItemEnum) {
        let plain = node.variants.iter().filter(|variant| variant.fields.is_empty());
        let names = plain.map(|variant| variant.ident.to_string()).collect();
        self.source.enums.insert(node.ident.to_string(), names);
        self.fixed(|this| visit::visit_item_enum(this, node));
    }

    fn visit_item_const(&mut self, node: &'ast syn::ItemConst) {
        self.fixed(|this| visit::visit_item_const(this, node));
    }

    fn visit_item_static(&mut self, node: &'ast syn::ItemStatic) {
        self.fixed(|this| visit::visit_item_static(this, node));
    }

    fn visit_impl_item_const(&mut self, node: &'ast syn::ImplItemConst) {
        self.fixed(|this| visit::visit_impl_item_const(this, node));
    }

    fn visit_type(&mut self, node: &'ast syn::Type) {
        self.fixed(|this| visit::visit_type(this, node));
    }

    fn visit_pat(&mut self, node: &'ast syn::Pat) {
        self.fixed(|this| visit::visit_pat(this, node));
    }

    fn visit_generic_argument(&mut self, node: &'ast syn::GenericArgument) {
        self.fixed(|this| visit::visit_generic_argument(this, node));
    }

    fn visit_expr_const(&mut self, node: &'ast syn::ExprConst) {
        self.fixed(|this| visit::visit_expr_const(this, node));
    }

    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
        self.fixed(|this| this.visit_expr(&node.len));
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        let sign = bytes(node.op);
        let joins_let = has_let(&node.left) || has_let(&node.right);
        let is_free = self.fixed == 0 && !joins_let;
        self.source.operators.insert(sign.start, Operator { all: bytes(node), sign, is_free, joins_let });
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        let sign = bytes(node.op);
        let is_free = self.fixed == 0;
        self.source
            .operators
            .insert(sign.start, Operator { all: bytes(node), sign, is_free, joins_let: false });
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        if self.fixed == 0 {
            for field in &node.fields {
                self.source.fields.insert(bytes(field).start, bytes(node));
            }
        }
        visit::visit_expr_struct(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let guard = node.guard.as_ref().map(|(_, guard)| bytes(guard));
        if let Some((_, guard)) = &node.guard
            && !has_let(guard)
        {
            self.source.guards.insert(bytes(guard).start, bytes(guard));
        }
        self.source.arms.insert(bytes(node).start, Arm { pattern: bytes(&node.pat), guard });
        visit::visit_arm(self, node);
    }

    fn visit_expr_if(&mut self, node: &'ast syn::ExprIf) {
        self.condition(&node.cond, "if", &["true", "false"]);
        visit::visit_expr_if(self, node);
    }

    fn visit_expr_while(&mut self, node: &'ast syn::ExprWhile) {
        self.condition(&node.cond, "while", &["false"]);
        visit::visit_expr_while(self, node);
    }

    fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
        let is_bool =
            |arm: &syn::Arm| matches!(&arm.pat, syn::Pat::Lit(lit) if matches!(lit.lit, syn::Lit::Bool(_)));
        if node.arms.iter().all(is_bool) {
            self.condition(&node.expr, "match", &["true", "false"]);
        }
        visit::visit_expr_match(self, node);
    }

    fn visit_expr_method_call(&mut self, node: &'ast syn::ExprMethodCall) {
        let method = node.method.to_string();
        if CONDITIONS.contains(&method.as_str())
            && let Some(syn::Expr::Closure(closure)) = node.args.first()
            && method != "then"
        {
            self.condition(&closure.body, &method, &["true", "false"]);
        }
        if matches!(method.as_str(), "then" | "then_some") {
            self.condition(&node.receiver, &method, &["true", "false"]);
        }
        if LIMITS.contains(&method.as_str()) && node.args.len() == 1 {
            let all = bytes(node);
            let (receiver, argument) = (bytes(&node.receiver), bytes(&node.args[0]));
            let text = |at: &Bytes| self.source.text[at.clone()].to_owned();
            let what = format!("without .{method}({})", self.shown(&argument));
            let other = if method == "max" { "min" } else { "max" };
            let turned = format!("{}.{other}({})", text(&receiver), text(&argument));
            let bare = text(&receiver);
            self.own(all.clone(), bare, what);
            self.own(all, turned, format!(".{other} for .{method}({})", self.shown(&argument)));
        }
        visit::visit_expr_method_call(self, node);
    }

    fn visit_expr_lit(&mut self, node: &'ast syn::ExprLit) {
        match &node.lit {
            syn::Lit::Bool(value) => {
                self.own(
                    bytes(node),
                    (!value.value).to_string(),
                    format!("{} for {}", !value.value, value.value),
                );
            }
            syn::Lit::Int(value) => {
                if let Ok(number) = value.base10_parse::<u128>()
                    && number < 1 << 20
                {
                    let other = format!("{}{}", number + 1, value.suffix());
                    self.own(bytes(node), other.clone(), format!("{other} for {number}"));
                }
            }
            _ => {}
        }
    }

    fn visit_expr_path(&mut self, node: &'ast syn::ExprPath) {
        let names: Vec<String> = node.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let is_type = |name: &String| name.starts_with(|c: char| c.is_ascii_uppercase());
        if let [.., of, variant] = &names[..]
            && is_type(of)
            && is_type(variant)
            && variant.contains(|c: char| c.is_ascii_lowercase())
        {
            // Which variants there are is known once all files have been read.
            self.own(bytes(node), format!("{of}::{variant}"), "variant".into());
        }
    }

    fn visit_stmt(&mut self, node: &'ast syn::Stmt) {
        if let syn::Stmt::Expr(expr, Some(_)) = node
            && matches!(
                expr,
                syn::Expr::Call(_)
                    | syn::Expr::MethodCall(_)
                    | syn::Expr::Assign(_)
                    | syn::Expr::Binary(_)
                    | syn::Expr::Try(_)
                    | syn::Expr::Continue(_)
            )
        {
            let at = bytes(node);
            let what = format!("without `{}`", self.shown(&at));
            self.own(at, None, what);
        }
        visit::visit_stmt(self, node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> Vec<String> {
        let source = Source::parse(text.into()).unwrap();
        let shown = |own: &Own| {
            let by = own.by.clone().unwrap_or_default();
            format!("{}{by}{}", &source.text[..own.at.start], &source.text[own.at.end..])
        };
        source.own.iter().map(shown).collect()
    }

    #[test]
    fn conditions_limits_statements_and_values_are_broken() {
        assert_eq!(own("fn f() { if a() { b } }"), ["fn f() { if true { b } }", "fn f() { if false { b } }"]);
        assert_eq!(own("fn f() { while a() { b } }"), ["fn f() { while false { b } }"]);
        assert_eq!(own("fn f() { a.max(b) }"), ["fn f() { a }", "fn f() { a.min(b) }"]);
        assert_eq!(own("fn f() { a(b); c }"), ["fn f() {  c }"]);
        assert_eq!(
            own("fn f() { x.any(|a| a.b()) }"),
            ["fn f() { x.any(|a| true) }", "fn f() { x.any(|a| false) }"]
        );
        assert_eq!(own("fn f() { g(7, true) }"), ["fn f() { g(8, true) }", "fn f() { g(7, false) }"]);
    }

    #[test]
    fn what_the_compiler_computes_is_left_alone() {
        for text in [
            "const A: u8 = 3;",
            "fn f(a: [u8; 3]) -> [u8; 3] { a }",
            "fn f() { match a { 3 => b, _ => c } }",
            "fn f() { if let Some(3) = a && b { c } }",
            "#[cfg(test)] mod tests { fn f() { g(3) } }",
            "#[cfg(test)] fn f() { g(3) }",
            "#[cfg(target_arch = \"bpf\")] fn f() { g(3) }",
        ] {
            assert_eq!(own(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_joins_let_is_known() {
        let text = "fn f() { if let Some(a) = b && a != c && d { e } }";
        let source = Source::parse(text.into()).unwrap();
        let joins = |sign: &str| {
            let of_sign = text.match_indices(sign).map(|(at, _)| source.operators[&at].joins_let);
            of_sign.collect::<Vec<_>>()
        };
        assert_eq!((joins("&&"), joins("!=")), (vec![true, true], vec![false]));
    }

    #[test]
    fn places_are_lines_and_columns_of_characters() {
        let source = Source::parse("// é\nfn f() { g() }\n".into()).unwrap();
        assert_eq!(&source.text[source.byte(1, 4)..source.byte(2, 3)], "é\nfn");
        assert_eq!((source.line(0), source.line(source.byte(2, 1))), (1, 2));
        let function = source.function(&(source.byte(2, 10)..source.byte(2, 11))).unwrap();
        assert_eq!((function.name.as_str(), &source.text[function.inside.clone()]), ("f", " g() "));
    }
}
