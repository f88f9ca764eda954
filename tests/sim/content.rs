//! What a simulated file holds: as written, and as durable; and what a crash makes of the difference.

use std::{collections::BTreeMap, sync::Arc};

use super::rng::Rng;

/// The unit in which a crash keeps or loses what was not synced.
pub const SECTOR: usize = 512;
const PAGE: usize = 4096;
const SECTORS: usize = PAGE / SECTOR;

/// What happens to what was not synced.
pub enum Fate<'a> {
    /// All of it is there.
    Kept,
    /// None of it is there.
    Lost,
    /// The seed decides, sector by sector.
    Chance(&'a mut Rng),
}

/// Bytes in shared pages: a copy costs a pointer for each page. A missing page is zero, and so is everything
/// behind the length.
#[derive(Clone, Default)]
pub struct Content {
    pub len: u64,
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

impl Content {
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let n = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let (page, at) = split(offset + done as u64);
            let part = (PAGE - at).min(n - done);
            match self.page(page) {
                Some(p) => buffer[done..done + part].copy_from_slice(&p[at..at + part]),
                None => buffer[done..done + part].fill(0),
            }
            done += part;
        }
        n
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, at) = split(offset + done as u64);
            let part = (PAGE - at).min(bytes.len() - done);
            self.page_mut(page)[at..at + part].copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (page, at) = split(len);
            self.pages.truncate(if at == 0 { page } else { page + 1 });
            if at > 0 && self.page(page).is_some() {
                self.page_mut(page)[at..].fill(0);
            }
        }
        self.len = len;
    }

    pub fn flip(&mut self, offset: u64, bit: u8) {
        if offset < self.len {
            let (page, at) = split(offset);
            self.page_mut(page)[at] ^= 1 << bit;
        }
    }

    /// Feeds the bytes to a hash; a page of zeroes counts like a missing one.
    pub fn hash(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&self.len.to_le_bytes());
        for (i, page) in self.pages.iter().enumerate() {
            if let Some(page) = page
                && page.iter().any(|&b| b != 0)
            {
                hasher.update(&(i as u64).to_le_bytes());
                hasher.update(&page[..]);
            }
        }
    }

    fn page(&self, page: usize) -> Option<&[u8; PAGE]> {
        self.pages.get(page)?.as_deref()
    }

    fn page_mut(&mut self, page: usize) -> &mut [u8; PAGE] {
        if page >= self.pages.len() {
            self.pages.resize(page + 1, None);
        }
        Arc::make_mut(self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE])))
    }
}

const fn split(offset: u64) -> (usize, usize) {
    ((offset / PAGE as u64) as usize, (offset % PAGE as u64) as usize)
}

/// A file: what reads see, what is durable, and which sectors were written since the last sync.
#[derive(Clone, Default)]
pub struct File {
    written: Arc<Content>,
    durable: Arc<Content>,
    /// A bit for each sector of a page.
    dirty: BTreeMap<usize, u8>,
    /// A sync failed: clean sectors may differ from the durable ones.
    diverged: bool,
    /// Bytes that can be written without asking for space.
    pub allocated: u64,
}

impl File {
    pub fn written(&self) -> &Content {
        &self.written
    }

    pub fn write(&mut self, bytes: &[u8], offset: u64) {
        if !bytes.is_empty() {
            Arc::make_mut(&mut self.written).write(bytes, offset);
            self.mark(offset, offset + bytes.len() as u64);
        }
    }

    /// Only the length is as after the write.
    pub fn lose_write(&mut self, bytes: &[u8], offset: u64) {
        let len = self.written.len.max(offset + bytes.len() as u64);
        self.set_len(len);
    }

    pub fn set_len(&mut self, len: u64) {
        let old = self.written.len;
        if len < old {
            // Cut off and regrown, these bytes are zero: which may become durable or not, like a write.
            self.mark(len, old);
        }
        if len != old {
            Arc::make_mut(&mut self.written).set_len(len);
        }
    }

    pub fn flip(&mut self, offset: u64, bit: u8) {
        Arc::make_mut(&mut self.written).flip(offset, bit);
        Arc::make_mut(&mut self.durable).flip(offset, bit);
    }

    /// Makes what was written since the last sync durable, and only that: what a failed sync has lost stays
    /// lost.
    pub fn sync(&mut self) {
        self.durable = self.after(&mut Fate::Kept);
        self.dirty.clear();
    }

    /// As Linux does it: what was not synced is durable or not, nobody knows, and counts as clean.
    pub fn fail_sync(&mut self, rng: &mut Rng) {
        self.durable = self.after(&mut Fate::Chance(rng));
        self.dirty.clear();
        self.diverged = true;
    }

    /// The file after a crash.
    pub fn image(&self, fate: &mut Fate<'_>) -> Self {
        let content = self.after(fate);
        Self { durable: content.clone(), written: content, allocated: self.allocated, ..Self::default() }
    }

    fn mark(&mut self, from: u64, to: u64) {
        for sector in from / SECTOR as u64..to.div_ceil(SECTOR as u64) {
            let (page, bit) = (sector as usize / SECTORS, sector as usize % SECTORS);
            *self.dirty.entry(page).or_default() |= 1 << bit;
        }
    }

    /// The durable content once the unsynced sectors have met their fate.
    fn after(&self, fate: &mut Fate<'_>) -> Arc<Content> {
        if self.dirty.is_empty() && self.written.len == self.durable.len {
            return self.durable.clone();
        }
        match fate {
            Fate::Lost => self.durable.clone(),
            Fate::Kept if !self.diverged => self.written.clone(),
            Fate::Kept => self.merge(self.written.len, |_| true),
            Fate::Chance(rng) => {
                let len = length_after(self.durable.len, self.written.len, rng);
                // Independent choices alone would hardly ever leave a whole batch, or none of it.
                let percent = [0, 10, 50, 90, 100][rng.below(5) as usize];
                if rng.percent(25) {
                    let sectors: u32 = self.dirty.values().map(|mask| mask.count_ones()).sum();
                    let mut first = rng.below(u64::from(sectors) + 1);
                    self.merge(len, |_| {
                        let kept = first > 0;
                        first = first.saturating_sub(1);
                        kept
                    })
                } else {
                    self.merge(len, |_| rng.percent(percent))
                }
            }
        }
    }

    /// The durable content with those unsynced sectors that `keep` chooses, cut to a length.
    fn merge(&self, len: u64, mut keep: impl FnMut(usize) -> bool) -> Arc<Content> {
        let mut content = (*self.durable).clone();
        let longest = content.len.max(len);
        content.len = longest;
        for (&page, &mask) in &self.dirty {
            let kept = (0..SECTORS).filter(|&s| mask & (1 << s) != 0 && keep(page * SECTORS + s));
            for s in kept.collect::<Vec<_>>() {
                let range = s * SECTOR..(s + 1) * SECTOR;
                match self.written.page(page) {
                    Some(p) => content.page_mut(page)[range.clone()].copy_from_slice(&p[range]),
                    None if content.page(page).is_some() => content.page_mut(page)[range].fill(0),
                    None => {}
                }
            }
        }
        // Sectors beyond what the length says are no part of the file.
        content.len = u64::MAX;
        content.set_len(len);
        Arc::new(content)
    }
}

/// The old length, the new one, or a growing file caught between two appends.
fn length_after(durable: u64, written: u64, rng: &mut Rng) -> u64 {
    match rng.below(3) {
        0 => durable,
        1 if written > durable => {
            let sectors = (written - durable) / SECTOR as u64;
            (durable + rng.below(sectors + 1) * SECTOR as u64).min(written)
        }
        _ => written,
    }
}
