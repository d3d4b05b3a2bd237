//! Builds a testbed whose nodes are configured by hand as flannel would, names it, and waits to be ended.
//!
//! The suite on the testbed kills it to see that nothing stays behind.
#![forbid(unsafe_code)]

use std::io::{self, Read};

use anyhow::Result;
use overlay_testbed::Testbed;

fn main() -> Result<()> {
    let testbed = Testbed::builder().nodes(2).pods_per_node(1).build()?;
    testbed.configure_like_flannel()?;
    for identity in testbed.identities() {
        println!("{} {}", identity.name, identity.pid);
    }
    println!("ready {}", testbed.run());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
