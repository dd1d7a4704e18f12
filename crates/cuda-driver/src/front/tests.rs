//! The order of work in streams, events and graphs, on a card that only keeps a diary.
#![forbid(unsafe_code)]
