//! gRPC. (To come.)

/// The generated code of `proto/raft/v1`.
#[allow(missing_docs)]
pub mod pb {
    tonic::include_proto!("raft.v1");
}
