//! (To come.)
use crate::{args::Demo, error::Failure};
/// (To come.)
pub async fn run(_demo: Demo) -> Result<u8, Failure> {
    Ok(1)
}
