//! The Huffman code of HPACK (RFC 7541 §5.2 and appendix B). It is canonical: the lengths of its codes say everything.

/// The lengths of the codes of the 256 bytes and of EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const LONGEST: usize = 30;
const EOS: u16 = 256;

struct Codes {
    /// By length: the first code, how many there are, and where their symbols begin in `symbols`.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    begin: [usize; LONGEST + 1],
    symbols: [u16; 257],
}

const CODES: Codes = codes();

const fn codes() -> Codes {
    let mut codes = Codes {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        begin: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut length, mut code, mut filled) = (1, 0, 0);
    while length <= LONGEST {
        code <<= 1;
        codes.first[length] = code;
        codes.begin[length] = filled;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                codes.symbols[filled] = symbol as u16;
                codes.count[length] += 1;
                filled += 1;
                code += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    codes
}

/// Appends the decoded bytes. `None` for what is no text in this code: EOS in it, or padding other than the begin of EOS.
pub fn decode(coded: &[u8], decoded: &mut Vec<u8>) -> Option<()> {
    let (mut code, mut length) = (0u32, 0usize);
    for byte in coded {
        for shift in (0..8).rev() {
            code = (code << 1) | u32::from((byte >> shift) & 1);
            length += 1;
            let (Some(first), Some(count), Some(begin)) = (
                CODES.first.get(length),
                CODES.count.get(length),
                CODES.begin.get(length),
            ) else {
                return None;
            };
            let Some(at) = code.checked_sub(*first).filter(|at| at < count) else {
                continue;
            };
            let symbol = *CODES.symbols.get(begin + at as usize)?;
            if symbol == EOS {
                return None;
            }
            decoded.push(symbol as u8);
            (code, length) = (0, 0);
        }
    }
    let padding = (1u32 << length.min(8)) - 1;
    (length < 8 && code == padding).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541 appendix C.4 and C.6.
        for (coded, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            (
                "9d29ad171863c78f0b97c8e9ae82ae43d3",
                "https://www.example.com",
            ),
        ] {
            let bytes: Vec<u8> = (0..coded.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&coded[at..at + 2], 16).unwrap())
                .collect();
            let mut decoded = Vec::new();
            assert_eq!(decode(&bytes, &mut decoded), Some(()), "{text}");
            assert_eq!(decoded, text.as_bytes());
        }
        assert_eq!(decode(&[], &mut Vec::new()), Some(()));
        // EOS, too much padding, and padding of zeros.
        for bad in [
            &[0xff, 0xff, 0xff, 0xff][..],
            &[0x07, 0xff, 0xff],
            &[0x00, 0x00],
        ] {
            assert_eq!(decode(bad, &mut Vec::new()), None, "{bad:?}");
        }
    }
}
