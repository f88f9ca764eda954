//! Names of version files: `00000003.2026-11-23T02.45.05Z.txt`, so that a list is in order and a program still
//! knows the kind of file.

use crate::base::limits::NAME_BYTES;

use super::moments;

/// The name that a version of `name` has in its directory of versions. `shared`: another one has its number too, so that the
/// time is said to the nanosecond.
#[must_use]
pub fn version_file(name: &[u8], ordinal: u64, created_ns: u64, shared: bool) -> Vec<u8> {
    let time = if shared { created_ns } else { created_ns - created_ns % 1_000_000_000 };
    let mut file = format!("{ordinal:08}.{}", moments::canonical(time)).into_bytes();
    let extension = extension(name);
    let room = NAME_BYTES.saturating_sub(file.len());
    file.extend_from_slice(&extension[..extension.len().min(room)]);
    file
}

/// The number that the name of a version file begins with, or is.
#[must_use]
pub fn ordinal(file: &[u8]) -> Option<u64> {
    let digits = file.split(|b| *b == b'.').next()?;
    let plain = !digits.is_empty() && digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// The extension of a name, its dot included; empty if it has none. A dot at the beginning makes a hidden file.
fn extension(name: &[u8]) -> &[u8] {
    match name.iter().rposition(|b| *b == b'.') {
        None | Some(0) => &[],
        Some(dot) => &name[dot..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_stays_last_and_the_name_fits() {
        let at = 1_795_401_905_999_999_999;
        let name = |n: &[u8], o| String::from_utf8_lossy(&version_file(n, o, at, false)).into_owned();
        let time = moments::canonical(1_795_401_905_000_000_000);
        assert_eq!(name(b"report.txt", 3), format!("00000003.{time}.txt"));
        assert_eq!(name(b"a.tar.gz", 1_234_567_890), format!("1234567890.{time}.gz"));
        assert_eq!(name(b".bashrc", 1), format!("00000001.{time}"));
        assert_eq!(name(b"plain", 1), format!("00000001.{time}"));
        assert_eq!(name(b"dot.", 1), format!("00000001.{time}."));
        let long = [b"a.".as_slice(), &[b'x'; 253]].concat();
        let file = version_file(&long, 7, at, false);
        assert_eq!(file.len(), 255);
        assert_eq!(ordinal(&file), Some(7));
        assert_eq!(
            (ordinal(b"12"), ordinal(b"x"), ordinal(b""), ordinal(b".1")),
            (Some(12), None, None, None)
        );
    }
}
