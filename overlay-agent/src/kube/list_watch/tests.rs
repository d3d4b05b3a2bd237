//! How long to wait.

use super::*;

#[test]
fn waits_are_short_at_first_and_never_long() {
    let mut jitter = Jitter::seeded(3);
    assert_eq!(wait(0, &mut jitter), Duration::ZERO);
    for (failures, longest) in [(1, 500), (2, 1_000), (3, 2_000), (7, 30_000), (u32::MAX, 30_000)] {
        for _ in 0..100 {
            assert!(wait(failures, &mut jitter) < Duration::from_millis(longest));
        }
    }
    let waits: Vec<_> = (0..100).map(|_| wait(20, &mut jitter)).collect();
    assert!(
        waits.iter().any(|wait| *wait < Duration::from_secs(10)),
        "the whole of it is chance"
    );
    assert!(waits.iter().any(|wait| *wait > Duration::from_secs(20)));
}
