//! Compiles `proto/` without `protoc`: protox parses, prost and tonic generate.

#[cfg(feature = "grpc")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use prost::Message;

    println!("cargo:rerun-if-changed=proto");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(["raft/v1/raft.proto", "raftkv/v1/kv.proto"], ["proto"])?;
    // For the reflection service, so that grpcurl needs no files.
    std::fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "grpc"))]
fn main() {}
