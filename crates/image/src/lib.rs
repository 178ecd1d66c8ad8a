//! Images: references, registries, layers, garbage.
