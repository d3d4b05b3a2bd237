//! flannel's line `CLI flags config: …`: which flags are in force, wherever they come from.

use clap::{ArgMatches, Command};

const REDACTED: &str = "<redacted>";
const SECRET: &str = "etcd-password";

/// `name=value` of every flag that has a value, without secrets.
pub(super) fn flags(command: &mut Command, name: &str, matches: &ArgMatches) -> String {
    let flags = command
        .find_subcommand(name)
        .into_iter()
        .flat_map(Command::get_arguments);
    let shown: Vec<_> = flags
        .filter_map(|flag| {
            let long = flag.get_long()?;
            let id = flag.get_id().as_str();
            // `--help` and `--version` have no values.
            let values = matches.try_get_raw(id).ok().flatten()?;
            let values: Vec<_> = values
                .map(|value| value.to_string_lossy().into_owned())
                .filter(|value| !value.is_empty())
                .map(|value| {
                    if long == SECRET {
                        REDACTED.to_owned()
                    } else {
                        without_user(&value)
                    }
                })
                .collect();
            match values.as_slice() {
                [] => None,
                [value] => Some(format!("{long}={value}")),
                several => Some(format!("{long}=[{}]", several.join(" "))),
            }
        })
        .collect();
    shown.join(" ")
}

/// URLs without user name and password.
fn without_user(text: &str) -> String {
    let urls: Vec<_> = text
        .split(',')
        .map(|url| match url.split_once("://") {
            Some((scheme, rest)) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                match host.rsplit_once('@') {
                    Some((_, host)) => format!("{scheme}://{REDACTED}@{host}{path}"),
                    None => url.to_owned(),
                }
            }
            None => url.to_owned(),
        })
        .collect();
    urls.join(",")
}

#[cfg(test)]
mod tests {
    use super::without_user;

    #[test]
    fn urls_are_shown_without_passwords() {
        for (url, shown) in [
            ("https://api:6443", "https://api:6443"),
            ("https://u:p@api:6443/x@y", "https://<redacted>@api:6443/x@y"),
            ("http://a:1,http://u:p@q@b:2", "http://a:1,http://<redacted>@b:2"),
            ("/etc/x@y,z", "/etc/x@y,z"),
        ] {
            assert_eq!(without_user(url), shown);
        }
    }
}
