//! `bees flow sign`: who answers for a flow, and for how long.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use authagent::keys::Signer;
use wire::id::TupleHash;
use wire::revoke::Revocation;
use wire::tuple::{Credentials, Tuple, Validity};
use wire::utc::Utc;

use super::Bundle;
use crate::keys::check_principal;

impl Bundle {
    /// Signs the flow for `principal`, in place of whoever signed it before. Ends of its validity that are
    /// given here hold from now on. The flow's hash is another one afterwards.
    pub fn sign(&mut self, principal: &str, key: &dyn Signer, validity: Validity) -> Result<()> {
        check_principal(principal)?;
        let mut tuple = self.tuple.clone();
        let period = &mut tuple.body.validity;
        *period = Validity { from: validity.from.or(period.from), until: validity.until.or(period.until) };
        let signature = key.sign(&tuple.body.encode()).context("cannot sign")?;
        tuple.credentials =
            Credentials::Signed { principal: principal.into(), scheme: key.scheme(), signature };
        let bytes = tuple.encode();
        // The same checks as a node's: what it would refuse is refused here.
        *self = Self { tuple: Tuple::decode(&bytes)?, bytes, parts: std::mem::take(&mut self.parts) };
        Ok(())
    }
}

/// A revocation of `flow` until so many seconds since 1970; `by` is the principal that signed the flow,
/// `None` a revoker of the policy.
pub fn revoke(flow: TupleHash, until: u64, by: Option<&str>, key: &dyn Signer) -> Result<Revocation> {
    let signature = key.sign(&Revocation::statement(&flow, until, by)).context("cannot sign")?;
    Ok(Revocation { flow, until, by: by.map(Into::into), scheme: key.scheme(), signature })
}

/// Seconds since 1970 now, by this machine's clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A time on the command line: `2026-11-21`, `2026-11-21T15:04:05Z`, seconds since 1970, or from now on:
/// `+90s`, `+30m`, `+12h`, `+7d`.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let Some(ahead) = text.strip_prefix('+') else {
        return text.parse().map(|Utc(t)| t).map_err(|e| format!("{e}, or +7d (s, m, h, d) from now on"));
    };
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 24 * 3600)];
    let seconds = units.iter().find_map(|(unit, factor)| {
        ahead.strip_suffix(*unit)?.parse::<u64>().ok()?.checked_mul(*factor)?.checked_add(now())
    });
    seconds.ok_or_else(|| "expected a time from now on such as +7d (s, m, h, d)".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::build::tests::bundle;
    use crate::keys::{Kind, PrivateKey};

    #[test]
    fn a_signature_covers_the_body_and_its_validity() {
        for kind in [Kind::Ed25519, Kind::Rsa] {
            let key = PrivateKey::generate(kind, 2048).unwrap();
            let mut signed = bundle();
            let before = signed.hash();
            signed.sign("joe", &key, Validity { from: None, until: Some(99) }).unwrap();
            assert_ne!(signed.hash(), before);
            assert_eq!(signed.tuple.body.validity.until, Some(99));
            let verified = |tuple: &Tuple| authagent::agent::Verification::of(tuple, key.public()).valid;
            assert!(verified(&signed.tuple));
            let mut later = signed.tuple.clone();
            later.body.validity.until = Some(100);
            assert!(!verified(&later));
            // Signing again keeps what is not given.
            let other = PrivateKey::generate(Kind::Ed25519, 0).unwrap();
            signed.sign("eve", &other, Validity { from: Some(1), until: None }).unwrap();
            assert_eq!(signed.tuple.body.validity, Validity { from: Some(1), until: Some(99) });
            assert!(!verified(&signed.tuple));
        }
        assert!(
            bundle()
                .sign("two words", &PrivateKey::generate(Kind::Ed25519, 0).unwrap(), Validity::default())
                .is_err()
        );
    }

    #[test]
    fn a_revocation_is_for_one_flow_and_one_time() {
        let key = PrivateKey::generate(Kind::Rsa, 2048).unwrap();
        let made = revoke(TupleHash([7; 32]), 99, Some("joe"), &key).unwrap();
        let made = Revocation::decode(&made.encode()).unwrap();
        let proven = |r: &Revocation| key.public().verify(r.scheme, &r.signed(), &r.signature).is_ok();
        assert!(proven(&made));
        assert!(!proven(&Revocation { until: 100, ..made.clone() }));
        assert!(!proven(&Revocation { flow: TupleHash([8; 32]), ..made.clone() }));
        assert!(!proven(&Revocation { by: None, ..made }));
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time("99"), Ok(99));
        assert_eq!(parse_time("1970-01-02"), Ok(24 * 3600));
        let hour = parse_time("+1h").unwrap();
        assert!((3600..3602).contains(&(hour - now())));
        for text in
            ["", "+", "+1", "+1w", "+-1s", "+99999999999999999999d", "+18446744073709551615s", "tomorrow"]
        {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
