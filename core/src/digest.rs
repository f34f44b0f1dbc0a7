//! A short digest of a machine's state, the same on every machine and in every build

use core::hash::Hasher;

/// FNV-1a over whatever is hashed into it; integers as little endian
#[derive(Clone, Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) const fn new() -> Self {
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn write_u16(&mut self, n: u16) {
        self.write(&n.to_le_bytes());
    }

    fn write_u32(&mut self, n: u32) {
        self.write(&n.to_le_bytes());
    }

    fn write_u64(&mut self, n: u64) {
        self.write(&n.to_le_bytes());
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hash;

    /// FNV-1a as its authors define it, of these bytes
    fn of_bytes(bytes: &[u8]) -> u64 {
        let mut digest = Digest::new();
        digest.write(bytes);
        digest.finish()
    }

    fn of(value: impl Hash) -> u64 {
        let mut digest = Digest::new();
        value.hash(&mut digest);
        digest.finish()
    }

    #[test]
    fn integers_count_as_the_same_bytes_on_every_machine() {
        assert_eq!((of_bytes(b""), of_bytes(b"a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
        assert_eq!(of(0x0102_u16), of_bytes(&[2, 1]));
        assert_eq!(of(0x0102_0304_u32), of_bytes(&[4, 3, 2, 1]));
        assert_eq!(of(0x0102_u64), of_bytes(&[2, 1, 0, 0, 0, 0, 0, 0]));
        assert_eq!((of(0x0102_usize), of(-1_isize)), (of(0x0102_u64), of_bytes(&[255; 8])));
    }
}
