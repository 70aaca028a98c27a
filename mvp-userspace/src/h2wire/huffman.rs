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

#[expect(
    clippy::indexing_slicing,
    reason = "computed while the agent is compiled"
)]
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

/// Bits that are looked up at once: of all but rare codes.
const QUICK: u32 = 9;

/// By the next bits: the symbol and the length of its code; 0 for a longer one.
static QUICKLY: [(u8, u8); 1 << QUICK] = quickly();

#[expect(
    clippy::indexing_slicing,
    reason = "computed while the agent is compiled"
)]
const fn quickly() -> [(u8, u8); 1 << QUICK] {
    let mut table = [(0, 0); 1 << QUICK];
    let mut window = 0;
    while window < table.len() {
        let mut length = 1;
        while length <= QUICK as usize {
            let code = (window >> (QUICK as usize - length)) as u32;
            if code >= CODES.first[length] && code - CODES.first[length] < CODES.count[length] {
                let at = CODES.begin[length] + (code - CODES.first[length]) as usize;
                table[window] = (CODES.symbols[at] as u8, length as u8);
                break;
            }
            length += 1;
        }
        window += 1;
    }
    table
}

/// Appends the decoded bytes. `None` for what is no text in this code: EOS in it, or padding other than the begin of EOS.
pub(super) fn decode(coded: &[u8], decoded: &mut Vec<u8>) -> Option<()> {
    let (bits, have, rest) = decode_most(coded, decoded)?;
    decode_rest(bits, have, rest, decoded)
}

/// Decodes as long as eight bytes are there at a time. Returns the bits that were taken and not decoded, how many they are, and the bytes that
/// were not taken.
fn decode_most<'c>(coded: &'c [u8], decoded: &mut Vec<u8>) -> Option<(u64, u32, &'c [u8])> {
    let mut at = decoded.len();
    // Room for the shortest codes, which have five bits; what is not used is cut off again.
    decoded.resize(at + coded.len() * 8 / 5 + 1, 0);
    // The first `have` bits of `bits` are still to be decoded. Behind them may be more of the same text, which comes again.
    let (mut bits, mut have) = (0u64, 0u32);
    let mut rest = coded;
    while let Some(eight) = rest.first_chunk::<8>() {
        bits |= u64::from_be_bytes(*eight) >> have;
        let bytes = (u64::BITS - have) / 8;
        rest = rest.get(bytes as usize..)?;
        have += bytes * 8;
        while have >= LONGEST as u32 {
            let (symbol, length) = match QUICKLY.get((bits >> (u64::BITS - QUICK)) as usize)? {
                (_, 0) => match of_rare((bits >> 32) as u32)? {
                    (EOS, _) => return None,
                    (symbol, length) => (symbol as u8, length),
                },
                (symbol, length) => (*symbol, u32::from(*length)),
            };
            *decoded.get_mut(at)? = symbol;
            at += 1;
            bits <<= length;
            have -= length;
        }
    }
    decoded.truncate(at);
    Some((bits.checked_shr(u64::BITS - have).unwrap_or(0), have, rest))
}

/// The same for less, to the end.
fn decode_rest(mut bits: u64, mut have: u32, mut rest: &[u8], decoded: &mut Vec<u8>) -> Option<()> {
    // The last `have` bits of `bits` are still to be decoded.
    loop {
        if have < 32 {
            if let Some((four, behind)) = rest.split_first_chunk() {
                bits = (bits << 32) | u64::from(u32::from_be_bytes(*four));
                have += 32;
                rest = behind;
            } else {
                for byte in std::mem::take(&mut rest) {
                    bits = (bits << 8) | u64::from(*byte);
                    have += 8;
                }
            }
        }
        if have == 0 {
            return Some(());
        }
        // The next 32 bits, behind the end those of EOS, which are ones.
        let next = match have.checked_sub(32) {
            Some(behind) => (bits >> behind) as u32,
            None => ((bits << (32 - have)) as u32) | (u32::MAX >> have),
        };
        let (symbol, length) = match QUICKLY.get((next >> (32 - QUICK)) as usize)? {
            (_, 0) => of_rare(next)?,
            (symbol, length) => (u16::from(*symbol), u32::from(*length)),
        };
        if length > have {
            let padding = (1u64 << have) - 1;
            return (have < 8 && bits & padding == padding).then_some(());
        }
        if symbol == EOS {
            return None;
        }
        decoded.push(symbol as u8);
        have -= length;
    }
}

/// The symbol whose code is exactly these bits, the first first, by the lengths of all codes alone: what decoding is compared with.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn code_of(bits: &[u8]) -> Option<usize> {
    static CODES: std::sync::LazyLock<hashbrown::HashMap<(u8, u32), usize>> =
        std::sync::LazyLock::new(|| {
            let mut symbols: Vec<(u8, usize)> = LENGTHS.iter().copied().zip(0..).collect();
            symbols.sort_unstable();
            let (mut code, mut before) = (0u32, 0);
            let codes = symbols.into_iter().map(|(length, symbol)| {
                code <<= length - before;
                before = length;
                code += 1;
                ((length, code - 1), symbol)
            });
            codes.collect()
        });
    let code = bits
        .iter()
        .fold(0, |code, bit| (code << 1) | u32::from(*bit));
    let length = u8::try_from(bits.len()).ok()?;
    CODES.get(&(length, code)).copied()
}

/// The symbol with which these bits begin, if its code is longer than what is looked up at once.
fn of_rare(next: u32) -> Option<(u16, u32)> {
    (QUICK + 1..=LONGEST as u32).find_map(|length| {
        let at = length as usize;
        let code = (next >> (32 - length)).checked_sub(*CODES.first.get(at)?)?;
        let is_one = code < *CODES.count.get(at)?;
        let symbol = CODES.symbols.get(CODES.begin.get(at)? + code as usize);
        symbol.filter(|_| is_one).map(|symbol| (*symbol, length))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as the RFC describes it.
    fn decode_by_bits(coded: &[u8], decoded: &mut Vec<u8>) -> Option<()> {
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
    proptest! {
        #[test]
        fn it_is_what_bit_by_bit_gives(
            symbols in proptest::collection::vec(0..256_usize, 0..60),
            noise in proptest::collection::vec(any::<u8>(), 0..20),
            ones in 0..6_usize,
        ) {
            // All symbols one after the other, padded with ones; then what is no text, mostly.
            let mut bits = String::new();
            for symbol in &symbols {
                let length = usize::from(LENGTHS[*symbol]);
                let begin = CODES.begin[length];
                let at = CODES.symbols[begin..].iter().position(|s| usize::from(*s) == *symbol);
                let code = CODES.first[length] as usize + at.unwrap();
                bits += &format!("{code:0length$b}");
            }
            while !bits.len().is_multiple_of(8) {
                bits.push('1');
            }
            let text: Vec<u8> = (0..bits.len() / 8)
                .map(|at| u8::from_str_radix(&bits[at * 8..][..8], 2).unwrap())
                .collect();
            let mut decoded = Vec::new();
            prop_assert_eq!(decode(&text, &mut decoded), Some(()));
            let bytes: Vec<u8> = symbols.iter().map(|symbol| *symbol as u8).collect();
            prop_assert_eq!(decoded, bytes);
            let padded = [&text[..], &vec![0xff; ones]].concat();
            for coded in [padded, [text, noise.clone()].concat(), noise] {
                let (mut one, mut other) = (Vec::new(), Vec::new());
                let outcome = decode(&coded, &mut one);
                prop_assert_eq!(outcome, decode_by_bits(&coded, &mut other));
                if outcome.is_some() {
                    prop_assert_eq!(one, other);
                }
            }
        }
    }
}
