//! Dockerfile text to typed instructions with byte spans, variable expansion, .dockerignore patterns and build checks.
