//! What the agent finds out about its node.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};

/// `/proc/sys/net` shows the network namespace of the process that reads it.
const SYSCTLS: &str = "/proc/sys/net/ipv4";

/// `net.ipv4.ip_local_port_range`, as it prints them: lowest and highest local port.
///
/// # Errors
///
/// When it cannot be read or is not two ports.
pub fn local_port_range() -> Result<(u16, u16)> {
    sysctl("ip_local_port_range", |text| {
        let mut ports = text.split_whitespace().map(u16::from_str);
        match (ports.next(), ports.next(), ports.next()) {
            (Some(Ok(low)), Some(Ok(high)), None) => Some((low, high)),
            _ => None,
        }
    })
}

/// Whether routes with several next hops are balanced by more than addresses: `net.ipv4.fib_multipath_hash_policy`, which
/// kernels without such routes do not have. (0 is by addresses alone, all others may look at ports.)
///
/// # Errors
///
/// When it is there and cannot be read, or is not a number.
pub fn multipath_by_port() -> Result<bool> {
    const NAME: &str = "fib_multipath_hash_policy";
    if !Path::new(SYSCTLS).join(NAME).exists() {
        return Ok(false);
    }
    sysctl(NAME, |text| text.trim().parse::<u8>().ok()).map(|policy| policy != 0)
}

/// `net.ipv4.ip_default_ttl`.
///
/// # Errors
///
/// When it cannot be read or is not a TTL.
pub fn default_ttl() -> Result<u8> {
    sysctl("ip_default_ttl", |text| text.trim().parse().ok())
}

/// How many CPUs the kernel may ever use.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn possible_cpus() -> Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow!("cannot read {path}: {error}"))?;
    Ok(u32::try_from(cpus)?)
}

/// Whether it is a real-time kernel: only these have the file.
#[must_use]
pub fn realtime() -> bool {
    fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1")
}

fn sysctl<T>(name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
    let path = format!("{SYSCTLS}/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse(&text).ok_or_else(|| anyhow!("{path} says {:?}, which is not understood", text.trim()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_has_them() {
        let (low, high) = super::local_port_range().unwrap();
        assert!(low <= high && low > 0, "{low} {high}");
        assert!(super::default_ttl().unwrap() > 0);
        assert!(super::possible_cpus().unwrap() > 0);
        super::multipath_by_port().unwrap();
    }
}
