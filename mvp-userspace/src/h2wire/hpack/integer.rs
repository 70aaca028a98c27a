//! Numbers in header blocks (RFC 7541 §5.1).

use super::BlockError;

/// Reads a number whose first byte has `bits` of it, and takes it off the front.
///
/// # Errors
/// It is cut off, or has more than four further bytes: far more than anything that is followed or kept here.
pub(crate) fn read(rest: &mut &[u8], bits: u32) -> Result<usize, BlockError> {
    let (&first, mut behind) = rest.split_first().ok_or(BlockError::CutOff)?;
    let most = (1_usize << bits) - 1;
    let mut number = usize::from(first) & most;
    if number == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = behind.split_first().ok_or(BlockError::CutOff)?;
            behind = after;
            if shift > 21 {
                return Err(BlockError::NumberTooLarge);
            }
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
    }
    *rest = behind;
    Ok(number)
}

/// Appends a number with `bits` of it in the first byte, whose other bits are those of `first`.
pub(crate) fn write(first: u8, bits: u32, number: usize, block: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if number < most {
        block.push(first | number as u8);
        return;
    }
    block.push(first | most as u8);
    let mut left = number - most;
    while left >= 0x80 {
        block.push(left as u8 | 0x80);
        left >>= 7;
    }
    block.push(left as u8);
}
