//! Every message, word for word; and what is written is read back.

use super::*;

fn errors(text: &str) -> Vec<String> {
    Manifest::parse("m.yaml", text).unwrap_err().lines()
}
