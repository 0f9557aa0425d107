//! Wires the solver, layers, snapshots, runner, registries and content into builds, exports and prunes.
