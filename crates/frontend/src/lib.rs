//! Lowers Dockerfile instructions to a build graph and an image configuration.
