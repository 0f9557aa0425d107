//! What every [`ContentStore`] must do, as tests that each implementation runs.
