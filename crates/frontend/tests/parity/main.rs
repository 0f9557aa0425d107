//! What BuildKit's frontend answers, and what ours does.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod findings;
#[cfg(test)]
mod render;
