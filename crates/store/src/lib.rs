//! Versioned records in redb behind one group-commit writer.
