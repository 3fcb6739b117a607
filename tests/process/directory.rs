//! Copies of data directories.

use std::{fs, path::Path};

/// Makes `to` what `from` is.
pub fn copy_directory(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).expect("its parent is ours");
    for file in fs::read_dir(from).expect("it is a directory") {
        let file = file.expect("it can be read");
        if file.path().is_dir() {
            copy_directory(&file.path(), &to.join(file.file_name()));
        } else {
            fs::copy(file.path(), to.join(file.file_name())).expect("there is room");
        }
    }
}
