//! What must hold for the checkout as a whole, and no compiler checks.

#![forbid(unsafe_code)]

// The lints know these as tests only when they are marked as such: helpers may panic there.
#[cfg(test)]
mod checkout;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod licences;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod unsafe_code;
