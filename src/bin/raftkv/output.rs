//! What goes to stdout: tables and plain values for people, one JSON object a line for programs. Talk goes to stderr.
//!
//! Keys and values are bytes; JSON has only text. What is not UTF-8 stands there as base64, and beside it a field that
//! says so: `"value":"/w==","value_encoding":"base64"`. Without that field the text is the value itself.

use std::io::{ErrorKind, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{config::Settings, error::Failure};

/// As wide as a picture of three nodes needs, where nobody says how wide the terminal is.
const WIDTH: usize = 160;

/// How many columns a line may have: `COLUMNS`, else what the terminal says.
pub fn width() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let seen = || terminal_size::terminal_size().map(|(terminal_size::Width(columns), _)| usize::from(columns));
    told.or_else(seen).unwrap_or(WIDTH)
}

/// Where results go.
pub struct Output {
    /// Whether they are JSON.
    pub json: bool,
}

impl Output {
    /// As the settings say.
    pub fn to_stdout(settings: &Settings) -> Result<Self, Failure> {
        Ok(Output { json: settings.json()? })
    }

    /// One object on one line.
    pub fn object(&self, object: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(object).map_err(|error| Failure::other("no JSON", error.to_string()))?;
        self.line(line.as_bytes())
    }

    /// One line of bytes as they are.
    pub fn line(&self, line: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(line).and_then(|()| stdout.write_all(b"\n")) {
            // Whoever read it has read enough: `raftkv scan | head`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            written => written.map_err(|error| Failure::other("stdout cannot be written", error.to_string())),
        }
    }

    /// A table: a head over rows.
    pub fn table(&self, head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        let text = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
        self.line(text.as_bytes())
    }
}

/// Says something to the person, not to the program.
pub fn talk(text: &str) {
    // Where stderr is closed, nobody wants to hear it.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Bytes as JSON has them: the text, and the name of its encoding where it is one.
pub fn text_of(bytes: &[u8]) -> (String, Option<&'static str>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (base64(bytes), Some("base64")),
    }
}

/// Bytes for a table or a message: text where it is text, escaped where it is not.
pub fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= group.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, §10, and bytes that are no text.
    #[test]
    fn base64_is_that_of_the_rfc() {
        let encoded = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
        assert_eq!(base64(&[0xff, 0xfe, 0x00]), "//4A");
    }

    #[test]
    fn only_what_is_no_text_is_encoded() {
        assert_eq!(text_of("grüße".as_bytes()), ("grüße".to_owned(), None));
        assert_eq!(text_of(&[0xff]), ("/w==".to_owned(), Some("base64")));
    }
}
