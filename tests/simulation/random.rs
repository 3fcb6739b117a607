//! ToDo
