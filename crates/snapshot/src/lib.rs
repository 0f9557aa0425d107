//! Root file systems from layers, as late as possible.
