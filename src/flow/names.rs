//! Gives each message name a number that fits into a recorded event, and back.

use std::sync::OnceLock;

/// Far more than there are words in all vocabularies together.
const SLOTS: usize = 512;

/// A table of names, found by their address: a name is a literal in the code, so its address is its identity. (Should
/// the compiler keep two copies of a literal, the name has two numbers, which both lead back to it.)
///
/// Names are never removed, and finding one that is there takes no lock.
pub(super) struct Names {
    slots: Box<[OnceLock<&'static str>]>,
}

impl Names {
    pub(super) fn new() -> Self {
        Names { slots: (0..SLOTS).map(|_| OnceLock::new()).collect() }
    }

    /// The number of a name, given out at its first asking. 0: the table is full.
    pub(super) fn number(&self, name: &'static str) -> u16 {
        // Fibonacci hashing: the upper bits of the product depend on all bits of the address.
        let hash = (name.as_ptr().addr() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let first = (hash >> 48) as usize;
        for step in 0..SLOTS {
            let slot = (first + step) % SLOTS;
            let held = *self.slots[slot].get_or_init(|| name);
            if std::ptr::eq(held, name) {
                return slot as u16 + 1;
            }
        }
        0
    }

    /// The name of a number.
    pub(super) fn name(&self, number: u16) -> &'static str {
        let slot = usize::from(number).checked_sub(1).and_then(|slot| self.slots.get(slot));
        slot.and_then(OnceLock::get).copied().unwrap_or("?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_leads_back() {
        let names = Names::new();
        let words = ["Persist", "Persisted", "Apply", "Applied"];
        let numbers = words.map(|word| names.number(word));
        assert_eq!(words.map(|word| names.number(word)), numbers);
        assert_eq!(numbers.map(|number| names.name(number)), words);
        assert_eq!(names.name(0), "?");
    }

    /// Fails when: the probe does not stop, or overwrites a name, once the table is full.
    #[test]
    fn a_full_table_gives_zero_and_forgets_nothing() {
        let names = Names::new();
        let words: Vec<&'static str> = (0..SLOTS + 1).map(|word| &*word.to_string().leak()).collect();
        let numbers: Vec<u16> = words.iter().map(|word| names.number(word)).collect();
        assert_eq!(numbers[SLOTS], 0);
        for (word, number) in words.iter().zip(&numbers).take(SLOTS) {
            assert_eq!(names.name(*number), *word);
        }
    }
}
