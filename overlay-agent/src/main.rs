//! The node agent of the VXLAN overlay. See `overlay-agent --help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_agent::cli::main()
}
