//! Which images and layers there are: the records in memory, who needs which layer, and the names.
//!
//! Readers take the lock for a moment and never wait for a writer's disk. A layer goes when no image
//! has it, no container holds it and no pull under way counts on it.

use crate::{
    error::ImageError,
    record::{ImageRecord, LayerRecord},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};
use types::{ContainerId, Digest, ImageRef};

/// Shortest start of an id that is looked up: below, words of names would match by chance.
const MIN_PREFIX: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct State {
    images: BTreeMap<Digest, Arc<ImageRecord>>,
    /// Tags and repository digests.
    names: HashMap<String, Digest>,
    layers: HashMap<Digest, LayerRecord>,
    /// How many pulls under way count on a layer.
    pins: HashMap<Digest, usize>,
    holds: HashMap<ContainerId, Vec<Digest>>,
}

impl State {
    pub(crate) fn images(&self) -> impl Iterator<Item = (&Digest, &Arc<ImageRecord>)> {
        self.images.iter()
    }

    pub(crate) fn image(&self, id: &Digest) -> Option<&Arc<ImageRecord>> {
        self.images.get(id)
    }

    pub(crate) fn layer(&self, id: &Digest) -> Option<&LayerRecord> {
        self.layers.get(id)
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &LayerRecord> {
        self.layers.values()
    }

    pub(crate) fn put_layer(&mut self, id: Digest, record: LayerRecord) {
        self.layers.insert(id, record);
    }

    /// Puts an image in place of its earlier record.
    pub(crate) fn put_image(&mut self, id: &Digest, record: ImageRecord) {
        self.drop_image(id);
        for name in record.tags.iter().chain(&record.digests) {
            self.names.insert(name.clone(), id.clone());
        }
        self.images.insert(id.clone(), Arc::new(record));
    }

    pub(crate) fn drop_image(&mut self, id: &Digest) {
        let Some(record) = self.images.remove(id) else { return };
        for name in record.tags.iter().chain(&record.digests) {
            // A tag may be another image's by now.
            if self.names.get(name) == Some(id) {
                self.names.remove(name);
            }
        }
    }

    /// Who has this tag or repository digest.
    pub(crate) fn named(&self, name: &str) -> Option<&Digest> {
        self.names.get(name)
    }

    /// Finds an image by its id (with or without `sha256:`), a reference, or the start of its id.
    pub(crate) fn find(&self, text: &str) -> Result<Option<Digest>, ImageError> {
        let full = if text.len() == 64 { format!("sha256:{text}") } else { text.to_owned() };
        if let Ok(id) = Digest::parse(&full) {
            return Ok(self.images.contains_key(&id).then_some(id));
        }
        let reference = ImageRef::parse(text);
        if let Some(id) = reference.as_ref().ok().and_then(|image| self.by_reference(image)) {
            return Ok(Some(id));
        }
        let start = text.strip_prefix("sha256:").unwrap_or(text);
        let is_start = (MIN_PREFIX..64).contains(&start.len())
            && start.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_start {
            // What is neither a name nor an id is the caller's mistake.
            return reference.map(|_| None).map_err(ImageError::Reference);
        }
        let mut fitting = self.images.keys().filter(|id| id.hex().starts_with(start));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => Err(ImageError::AmbiguousId(text.to_owned())),
            (found, _) => Ok(found.cloned()),
        }
    }

    fn by_reference(&self, image: &ImageRef) -> Option<Digest> {
        let name = match image.digest() {
            Some(digest) => image.with_digest(digest),
            None => image.to_string(),
        };
        self.names.get(&name).cloned()
    }

    pub(crate) fn pin(&mut self, layers: &[Digest]) {
        for layer in layers {
            *self.pins.entry(layer.clone()).or_default() += 1;
        }
    }

    pub(crate) fn unpin(&mut self, layers: &[Digest]) {
        for layer in layers {
            if let Some(count) = self.pins.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    self.pins.remove(layer);
                }
            }
        }
    }

    pub(crate) fn hold(&mut self, container: ContainerId, layers: Vec<Digest>) {
        self.holds.insert(container, layers);
    }

    /// The layer that is unpacked in the directory of that number.
    pub(crate) fn numbered(&self, number: u64) -> Option<Digest> {
        self.layers.iter().find(|(_, layer)| layer.number == number).map(|(id, _)| id.clone())
    }

    pub(crate) fn release(&mut self, container: &ContainerId) {
        self.holds.remove(container);
    }

    /// Takes out the layers that nobody needs.
    pub(crate) fn take_unneeded(&mut self) -> Vec<(Digest, LayerRecord)> {
        let of_images = self.images.values().flat_map(|image| &image.config.diff_ids);
        let needed: HashSet<&Digest> =
            of_images.chain(self.pins.keys()).chain(self.holds.values().flatten()).collect();
        let unneeded: Vec<Digest> =
            self.layers.keys().filter(|layer| !needed.contains(layer)).cloned().collect();
        unneeded
            .into_iter()
            .filter_map(|layer| self.layers.remove(&layer).map(|record| (layer, record)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(start: &str) -> Digest {
        Digest::parse(&format!("sha256:{start:0<64}")).expect("hex")
    }

    fn image(tags: &[&str], layers: &[Digest]) -> ImageRecord {
        let config = crate::image_config::ImageConfig { diff_ids: layers.to_vec(), ..Default::default() };
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        ImageRecord { tags, digests: Default::default(), size: 1, config }
    }

    fn layer(number: u64) -> LayerRecord {
        LayerRecord { number, bytes: 1, disk: 1, inodes: 1, opaque_root: false, implied: Vec::new() }
    }

    #[test]
    fn an_image_is_found_by_each_of_its_names() {
        let mut state = State::default();
        let (a, b) = (digest("abcdef1"), digest("abcdef2"));
        state.put_image(&a, image(&["docker.io/library/app:1"], &[]));
        state.put_image(&b, image(&["docker.io/library/abcdef2:latest"], &[]));
        for text in ["app:1", "docker.io/library/app:1", a.as_str(), a.hex(), "abcdef1", "sha256:abcdef10"] {
            assert_eq!(state.find(text).expect(text), Some(a.clone()), "{text}");
        }
        assert_eq!(state.find("app").expect("a name"), None, "another tag");
        assert_eq!(state.find("0000").expect("a start"), None);
        assert!(matches!(state.find("abcdef"), Err(ImageError::AmbiguousId(_))));
        assert!(matches!(state.find("A b"), Err(ImageError::Reference(_))));
        assert!(matches!(state.find(""), Err(ImageError::Reference(_))));
    }

    #[test]
    fn a_tag_that_moved_stays_with_its_new_image_when_the_old_one_goes() {
        let mut state = State::default();
        let (old, new) = (digest("aa"), digest("bb"));
        state.put_image(&old, image(&["x/a:1"], &[]));
        state.put_image(&new, image(&["x/a:1"], &[]));
        state.drop_image(&old);
        assert_eq!(state.named("x/a:1"), Some(&new));
    }

    #[test]
    fn a_layer_stays_while_an_image_a_pull_or_a_container_needs_it() {
        let (shared, own, free) = (digest("01"), digest("02"), digest("03"));
        let mut state = State::default();
        for (number, id) in [&shared, &own, &free].into_iter().enumerate() {
            state.put_layer(id.clone(), layer(number as u64));
        }
        let (a, b) = (digest("aa"), digest("bb"));
        state.put_image(&a, image(&[], &[shared.clone(), own.clone()]));
        state.put_image(&b, image(&[], std::slice::from_ref(&shared)));
        state.pin(std::slice::from_ref(&free));
        let container = ContainerId::from_random([7; 32]);
        state.hold(container.clone(), vec![own.clone()]);
        state.drop_image(&a);
        assert_eq!(state.take_unneeded(), []);
        state.unpin(std::slice::from_ref(&free));
        assert_eq!(state.take_unneeded(), [(free, layer(2))]);
        state.release(&container);
        assert_eq!(state.take_unneeded(), [(own, layer(1))]);
        state.drop_image(&b);
        assert_eq!(state.take_unneeded(), [(shared, layer(0))]);
        assert_eq!(state.layers().count(), 0);
    }
}
