//! The dataplane on a real kernel: loading, pinning, attaching by TCX and by clsact, beside other people's programs, and
//! after a kill at any moment. Each test has its own network namespace, mount namespace and BPF file system.

#![forbid(unsafe_code)]
// `cfg(test)` tells clippy that helpers are tests too.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod fastpath;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod hooks;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod pins;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod visible;

#[cfg(test)]
/// Runs each function once per way of attaching.
macro_rules! with_each_mechanism {
    ($($name:ident),+ $(,)?) => {
        mod tcx {
            $(#[test]
            fn $name() {
                crate::sandbox::run(overlay_agent::dataplane::AttachChoice::Tcx, super::$name);
            })+
        }
        mod clsact {
            $(#[test]
            fn $name() {
                crate::sandbox::run(overlay_agent::dataplane::AttachChoice::Clsact, super::$name);
            })+
        }
    };
}
#[cfg(test)]
pub(crate) use with_each_mechanism;
