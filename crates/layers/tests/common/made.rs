//! Archives put together by hand, block by block.

/// Puts archives together by hand.
#[derive(Default)]
pub(crate) struct Made(pub(crate) Vec<u8>);

impl Made {
    pub(crate) fn header(
        mut self,
        kind: u8,
        name: &str,
        size: u64,
        edit: impl FnOnce(&mut [u8; 512]),
    ) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        edit(&mut block);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    pub(crate) fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.header(b'0', name, content.len() as u64, |_| {})
            .data(content)
    }

    pub(crate) fn extended(self, kind: u8, records: &[(&str, &str)]) -> Self {
        let mut data = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..)
                .find(|n| n.to_string().len() + rest == *n)
                .unwrap();
            data += &format!("{length} {key}={value}\n");
        }
        self.header(kind, "x", data.len() as u64, |_| {})
            .data(data.as_bytes())
    }

    pub(crate) fn done(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
