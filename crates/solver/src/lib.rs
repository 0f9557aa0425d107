//! Decides what must run, once, and explains every cache miss.
