//! The bundled key-value store. (To come.)
