//! Generates the client of GoBGP's gRPC API from `proto/gobgp`, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/gobgp");
    println!("cargo::rerun-if-changed=build.rs");
    let files = protox::compile(["gobgp.proto", "attribute.proto"], ["proto/gobgp"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
