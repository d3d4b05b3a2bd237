//! Where a JSON value ends, found while it arrives.

/// The place in a value up to which it has been looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Scan {
    position: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// The length of the value at the beginning of `bytes`, which begin with its first byte; `None` when it is not
    /// complete. To be called with the same bytes and more of them until then.
    ///
    /// Values are objects, arrays and strings; a number or a word ends where something else begins.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let rest = bytes.get(self.position..)?;
        for (index, byte) in rest.iter().enumerate() {
            let next = self.position + index + 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return Some(next);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => match self.depth {
                    0 => return Some(next - 1),
                    1 => return Some(next),
                    _ => self.depth -= 1,
                },
                b',' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => return Some(next - 1),
                _ => {}
            }
        }
        self.position = bytes.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_where_it_ends_however_it_arrives() {
        for (value, rest) in [
            (r#"{"a":[1,{"b":"]}\""}],"c":"\\"}"#, ",{"),
            (r#"["a","b"]"#, "}"),
            (r#""a\"b""#, ","),
            ("12", ","),
            ("null", "}"),
            ("true", " "),
        ] {
            let text = format!("{value}{rest}");
            for chunk in 1..text.len() {
                let mut scan = Scan::default();
                let ends = (chunk..=text.len())
                    .step_by(chunk)
                    .chain([text.len()])
                    .find_map(|seen| scan.end(&text.as_bytes()[..seen]));
                assert_eq!(ends, Some(value.len()), "{value} in pieces of {chunk}");
            }
        }
    }
}
