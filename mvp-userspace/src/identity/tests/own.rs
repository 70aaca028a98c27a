//! The agent's own certificate: which ones a start is refused with.

use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};

use crate::identity::UnfitClientPair;
use crate::identity::certificate::Rejection;
use crate::identity::testing::{World, trust};
use crate::tls::testing::{ca, client, self_signed, signed_by};

#[test]
fn a_front_proxy_certificate_fits_and_one_that_has_expired_too() {
    let world = World::new();
    let good = signed_by(client("front-proxy-client", &[]), &world.proxy_ca);
    assert_eq!(world.trust.fits_front_proxy(&[good.der]), Ok(()));
    let mut expired = client("front-proxy-client", &[]);
    expired.not_before = date_time_ymd(2025, 1, 1);
    expired.not_after = date_time_ymd(2025, 1, 2);
    // The CA must have been valid then.
    let mut old = ca("front-proxy-ca");
    old.not_before = date_time_ymd(2020, 1, 1);
    let old = self_signed(old);
    let trust = trust(Some(&[&world.ca]), Some((&[&old], &["front-proxy-client"])));
    let expired = signed_by(expired, &old);
    assert_eq!(trust.fits_front_proxy(&[expired.der]), Ok(()));
}

#[test]
fn every_other_kind_is_refused() {
    let world = World::new();
    let user = signed_by(client("kubernetes-admin", &["system:masters"]), &world.ca);
    let kubelet = signed_by(
        client("kube-apiserver-kubelet-client", &["system:masters"]),
        &world.ca,
    );
    let foreign = signed_by(client("front-proxy-client", &[]), &self_signed(ca("other")));
    let other = signed_by(client("somebody", &[]), &world.proxy_ca);
    let mut serving = client("front-proxy-client", &[]);
    serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let serving = signed_by(serving, &world.proxy_ca);
    for (identity, expected) in [
        (user, UnfitClientPair::IsUser("kubernetes-admin".into())),
        (
            kubelet,
            UnfitClientPair::IsUser("kube-apiserver-kubelet-client".into()),
        ),
        (foreign, UnfitClientPair::Chain(Rejection::UnknownIssuer)),
        (other, UnfitClientPair::Name("somebody".into())),
        (serving, UnfitClientPair::Usage),
    ] {
        assert_eq!(world.trust.fits_front_proxy(&[identity.der]), Err(expected));
    }
    assert_eq!(
        world.trust.fits_front_proxy(&[]),
        Err(UnfitClientPair::Malformed)
    );
    // One CA for both: whoever asserts with it would also be a user.
    let both = trust(
        Some(&[&world.ca]),
        Some((&[&world.ca], &["front-proxy-client"])),
    );
    let same = signed_by(client("front-proxy-client", &[]), &world.ca);
    let expected = UnfitClientPair::IsUser("front-proxy-client".into());
    assert_eq!(both.fits_front_proxy(&[same.der]), Err(expected));
}
