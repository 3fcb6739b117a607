//! Nodes of one process reach each other by name. (To come.)
/// A network inside this process.
pub struct InProcess;
