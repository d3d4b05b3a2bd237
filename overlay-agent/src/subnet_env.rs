//! Writes subnet.env, which the CNI plugin reads each time it adds a pod.

mod file;

use std::path::PathBuf;

use ipnet::IpNet;
use overlay_core::subnet_env::SubnetEnv;
use tokio::sync::watch;
use tokio::time::Duration;

pub use self::file::write;
use crate::control::state::{DeviceState, State};
use crate::kube::publication::Progress;
use crate::kube::retry::Retry;

/// How often the file is compared with what it should be although nothing has changed: somebody may have removed it.
const CHECK: Duration = Duration::from_secs(60);

/// Keeps the file at `path` as the overlay device is, for as long as the other end of `state` lives.
///
/// While there is no device, what was written last stays: pods that exist keep their network.
pub async fn keep(
    path: PathBuf,
    ip_masq: bool,
    mut state: watch::Receiver<State>,
    mut progress: impl FnMut(Progress),
) {
    let mut retry = Retry::default();
    let mut written = false;
    loop {
        let wanted = state
            .borrow_and_update()
            .device
            .as_ref()
            .map(|device| of(device, ip_masq));
        let mut again = CHECK;
        match wanted {
            Some(Some(env)) => match write_in_background(path.clone(), env).await {
                Ok(changed) => {
                    if changed {
                        log::info!(
                            "Wrote subnet file to {}: subnet {}, MTU {}, masquerading by others: {}",
                            path.display(),
                            env.bridge,
                            env.mtu,
                            env.ip_masq
                        );
                    }
                    retry.succeeded("subnet.env");
                    written = true;
                    progress(Progress::Done);
                }
                Err(error) => {
                    let text = format!(
                        "{error:#}: the CNI plugin cannot add pods on this node as it should; trying again"
                    );
                    progress(Progress::Waiting(format!("{error:#}")));
                    again = retry.failed(log::Level::Error, text);
                }
            },
            Some(None) => progress(Progress::Waiting("this node's pod subnet is not IPv4".to_owned())),
            None if written => {}
            None => progress(Progress::Waiting("there is no overlay device yet".to_owned())),
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(again) => {}
        }
    }
}

/// What the file says about this device; `None` where the subnet is not IPv4.
fn of(device: &DeviceState, ip_masq: bool) -> Option<SubnetEnv> {
    match device.subnet {
        IpNet::V4(subnet) => Some(SubnetEnv::new(device.network, subnet, device.mtu, ip_masq)),
        IpNet::V6(_) => None,
    }
}

/// The event loop does not wait for the disk.
async fn write_in_background(path: PathBuf, env: SubnetEnv) -> anyhow::Result<bool> {
    tokio::task::spawn_blocking(move || write(&path, &env)).await?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn device(mtu: u32) -> State {
        State {
            device: Some(DeviceState {
                name: "flannel.1".into(),
                mac: "02:00:00:00:00:01".parse().unwrap(),
                mtu,
                subnet: "10.244.1.0/24".parse().unwrap(),
                network: "10.244.0.0/16".parse().unwrap(),
                underlay: "eth0".into(),
                address: [192, 168, 0, 1].into(),
            }),
            ..State::default()
        }
    }

    async fn next(progress: &mut watch::Receiver<Progress>) -> Progress {
        progress.changed().await.unwrap();
        progress.borrow_and_update().clone()
    }

    #[tokio::test]
    async fn the_file_follows_the_device_and_stays_without_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("subnet.env");
        let (state, receiver) = watch::channel(State::default());
        let (sender, mut progress) = watch::channel(Progress::Done);
        let task = tokio::spawn(keep(path.clone(), true, receiver, move |now| {
            sender.send_replace(now);
        }));
        assert!(
            matches!(next(&mut progress).await, Progress::Waiting(why) if why.contains("no overlay device"))
        );
        assert!(!path.exists());
        for mtu in [1450, 1400] {
            state.send_replace(device(mtu));
            assert_eq!(next(&mut progress).await, Progress::Done);
            assert!(
                fs::read_to_string(&path)
                    .unwrap()
                    .contains(&format!("FLANNEL_MTU={mtu}\n"))
            );
        }
        state.send_replace(State::default());
        tokio::task::yield_now().await;
        assert!(path.exists());
        drop(state);
        task.await.unwrap();
        assert!(
            !progress.has_changed().unwrap_or(false),
            "what is written stays written"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_said_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().join("flannel");
        fs::write(&parent, "in the way").unwrap();
        let path = parent.join("subnet.env");
        let (_state, receiver) = watch::channel(device(1450));
        let (sender, mut progress) = watch::channel(Progress::Done);
        let task = tokio::spawn(keep(path.clone(), false, receiver, move |now| {
            sender.send_replace(now);
        }));
        let Progress::Waiting(why) = next(&mut progress).await else {
            panic!("written into a file")
        };
        assert!(why.contains(path.to_str().unwrap()), "{why}");
        fs::remove_file(&parent).unwrap();
        while next(&mut progress).await != Progress::Done {}
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .ends_with("FLANNEL_IPMASQ=false\n")
        );
        task.abort();
    }
}
