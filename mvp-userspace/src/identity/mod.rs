//! Who the user is, which headers are trusted, stripped, set.
