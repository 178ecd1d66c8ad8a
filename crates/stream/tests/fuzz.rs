//! The fuzz targets of `fuzz/` without a fuzzer: over their corpus, and over what a mutator with a fixed
//! seed makes of it.

#[cfg(test)]
#[path = "../../../fuzz/src/stream_targets.rs"]
pub mod stream_targets;

#[cfg(test)]
mod tests {
    use super::stream_targets;

    /// Mutations of each target; a few seconds in all.
    const ROUNDS: usize = 60_000;
    /// Longest input: more than any bound of what is parsed.
    const LONGEST: usize = 20 << 10;

    /// Marsaglia's xorshift: the same numbers each time.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, end: usize) -> usize {
            usize::try_from(self.next() % end.max(1) as u64).expect("below a usize")
        }

        fn byte(&mut self) -> u8 {
            /// Those at which things change.
            const EDGES: [u8; 12] = [0, 1, 3, 125, 126, 127, 128, 130, 136, 254, 255, b'{'];
            if self.below(2) == 0 { EDGES[self.below(EDGES.len())] } else { self.next().to_le_bytes()[7] }
        }
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let place = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<_> = std::fs::read_dir(place)
            .expect("a corpus")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        // The order of a directory is not the same everywhere.
        files.sort();
        assert!(files.len() >= 3, "seeds");
        files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
    }

    fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], numbers: &mut Numbers) {
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(input.len() + 1);
            match numbers.below(7) {
                0 if at < input.len() => input[at] = numbers.byte(),
                1 if at < input.len() => input[at] ^= 1 << numbers.below(8),
                2 => input.insert(at, numbers.byte()),
                3 => {
                    let end = at + numbers.below(input.len() - at + 1);
                    input.drain(at..end);
                }
                4 => {
                    let end = at + numbers.below(input.len() - at + 1);
                    let again = input[at..end].to_vec();
                    input.splice(at..at, again);
                }
                5 => input.truncate(at),
                _ => {
                    let other = &corpus[numbers.below(corpus.len())];
                    let from = numbers.below(other.len() + 1);
                    input.splice(at..at, other[from..].iter().copied());
                }
            }
        }
        input.truncate(LONGEST);
    }

    fn run(target: &str, function: fn(&[u8])) {
        let corpus = corpus(target);
        for seed in &corpus {
            function(seed);
            (0..seed.len()).for_each(|cut| function(&seed[..cut]));
        }
        let mut numbers = Numbers(0x7065_6170_6f64_2121);
        let mut kept = corpus.clone();
        for _ in 0..ROUNDS {
            let mut input = kept[numbers.below(kept.len())].clone();
            mutate(&mut input, &corpus, &mut numbers);
            function(&input);
            // Some go on from where the last has come to; the seeds stay.
            let place = corpus.len() + numbers.below(4 * (corpus.len() + 60));
            if place < kept.len() {
                kept[place] = input;
            } else if kept.len() < corpus.len() + 60 {
                kept.push(input);
            }
        }
    }

    #[test]
    fn any_websocket_frames_are_read_alike_in_any_pieces() {
        run("ws_frames", stream_targets::ws_frames);
    }

    #[test]
    fn any_channel_messages_stay_on_their_channels() {
        run("ws_channels", stream_targets::ws_channels);
    }

    #[test]
    fn any_window_sizes_are_read_alike_in_any_pieces() {
        run("resize", stream_targets::resize);
    }

    #[test]
    fn any_spdy_frames_are_taken_or_refused() {
        run("spdy_frames", stream_targets::spdy_frames);
    }

    #[test]
    fn any_spdy_headers_are_taken_or_refused_within_their_bounds() {
        run("spdy_headers", stream_targets::spdy_headers);
    }
}
