//! Principals' public keys: text and SubjectPublicKeyInfo, each in one encoding; and a check with a key that
//! passed.
#![no_main]

use authagent::keys::{MAX_KEY_TEXT, PublicKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = PublicKey::from_spki(bytes) {
        assert_eq!(key.to_spki(), bytes);
        assert_eq!(PublicKey::from_text(&key.to_pem()).as_ref(), Ok(&key));
        assert!(key.verify(key.scheme(), b"message", &bytes[..bytes.len() / 2]).is_err());
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(key) = PublicKey::from_text(text)
    {
        assert!(text.len() <= MAX_KEY_TEXT && key.to_text().len() <= MAX_KEY_TEXT);
        assert_eq!(PublicKey::from_text(&key.to_text()), Ok(key));
    }
});
