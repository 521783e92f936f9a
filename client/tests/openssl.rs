//! Keys and signatures between `bees` and OpenSSL, both ways. Where there is no `openssl` command the tests
//! say so and check nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use authagent::keys::{PublicKey, Signer};
use client::keys::{KeyFile, Kind, PrivateKey, load_public};

const MESSAGE: &[u8] = b"what is signed";
/// How OpenSSL is told to sign and to check as nodes do.
const PSS: [&str; 4] = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];

/// A folder of one test's own, if there is an `openssl` to test with.
struct Openssl(PathBuf);

impl Openssl {
    fn find(test: &str) -> Option<Self> {
        let version = Command::new("openssl").arg("version").output();
        if !version.is_ok_and(|v| v.status.success()) {
            eprintln!("SKIPPED {test}: there is no openssl command here");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("bees-openssl-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("message"), MESSAGE).unwrap();
        Some(Self(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        Command::new("openssl").args(arguments).current_dir(&self.0).output().unwrap()
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.try_run(arguments);
        assert!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bees(arguments: &[&str], folder: &Path) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_bees")).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "bees {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn openssl_reads_the_keys_that_bees_made() {
    let Some(openssl) = Openssl::find("reads") else { return };
    for (kind, bits) in [("ed25519", None), ("rsa", Some("2048"))] {
        let file = format!("{kind}.key");
        let mut arguments = vec!["key", "new", "--type", kind, "--principal", "joe"];
        arguments.extend(bits.iter().flat_map(|b| ["--bits", b]));
        bees(&[&arguments[..], &[&file]].concat(), &openssl.0);
        openssl.run(&["pkey", "-in", &file, "-check", "-noout"]);
        // The public part is the same, to the byte, and so is its fingerprint.
        let public = openssl.run(&["pkey", "-in", &file, "-pubout"]);
        assert_eq!(bees(&["key", "export", &file], &openssl.0).as_bytes(), public);
        fs::write(openssl.path("public.pem"), &public).unwrap();
        openssl.run(&["pkey", "-pubin", "-in", "public.pem", "-outform", "DER", "-out", "public.der"]);
        let digest = openssl.run(&["dgst", "-sha256", "-r", "public.der"]);
        let shown = bees(&["key", "show", &file], &openssl.0);
        let digest = String::from_utf8(digest).unwrap();
        assert!(shown.contains(&format!("SHA256:{}", digest.split(' ').next().unwrap())), "{shown}");
        assert!(shown.contains("principal    joe"), "{shown}");
    }
}

#[test]
fn bees_reads_the_keys_that_openssl_made() {
    let Some(openssl) = Openssl::find("made") else { return };
    for (algorithm, option, kind, bits) in
        [("RSA", "rsa_keygen_bits:3072", "rsa", 3072), ("ED25519", "", "ed25519", 256)]
    {
        let mut arguments = vec!["genpkey", "-algorithm", algorithm, "-out", "key"];
        if !option.is_empty() {
            arguments.extend(["-pkeyopt", option]);
        }
        openssl.run(&arguments);
        let key = KeyFile::load(&openssl.path("key")).unwrap().key;
        assert_eq!((key.public().kind(), key.public().bits()), (kind, bits));
        openssl.run(&["pkey", "-in", "key", "-pubout", "-out", "public"]);
        assert_eq!(load_public(&openssl.path("public")).unwrap().0, key.public());
    }
    // What is no use here is refused with the way out of it.
    let error = |file: &str| format!("{:#}", KeyFile::load(&openssl.path(file)).unwrap_err());
    openssl.run(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-out", "weak"]);
    assert!(error("weak").contains("1024 bits is too weak"), "{}", error("weak"));
    openssl.run(&["pkey", "-in", "key", "-aes256", "-passout", "pass:secret", "-out", "sealed"]);
    assert!(error("sealed").contains("openssl pkey -in FILE -out COPY"), "{}", error("sealed"));
    openssl.run(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "curve"]);
    assert!(error("curve").contains("neither an RSA nor an Ed25519 key"), "{}", error("curve"));
}

/// The way that docs/security.md shows: what is in the clear is only in a pipe.
#[test]
fn an_encrypted_key_is_used_through_a_pipe() {
    let Some(openssl) = Openssl::find("pipe") else { return };
    bees(&["key", "new", "joe.key"], &openssl.0);
    let seal = ["pkey", "-aes256", "-in", "joe.key", "-passout", "pass:secret", "-out", "joe.sealed"];
    openssl.run(&seal);
    assert!(fs::read_to_string(openssl.path("joe.sealed")).unwrap().contains("ENCRYPTED PRIVATE KEY"));
    let script =
        format!("{} key export <(openssl pkey -in joe.sealed -passin pass:$0)", env!("CARGO_BIN_EXE_bees"));
    let export = |pass: &str| {
        Command::new("bash").args(["-c", &script, pass]).current_dir(&openssl.0).output().unwrap()
    };
    let exported = export("secret");
    assert_eq!(String::from_utf8_lossy(&exported.stderr), "");
    assert_eq!(exported.stdout, bees(&["key", "export", "joe.key"], &openssl.0).into_bytes());
    assert!(!export("guess").status.success());
}

#[test]
fn openssl_checks_a_signature_of_bees() {
    let Some(openssl) = Openssl::find("checks") else { return };
    let key = PrivateKey::generate(Kind::Rsa, 2048).unwrap();
    fs::write(openssl.path("public"), key.public().to_pem()).unwrap();
    fs::write(openssl.path("signature"), key.sign(MESSAGE).unwrap()).unwrap();
    let check = ["dgst", "-sha256", "-verify", "public", "-signature", "signature"];
    openssl.run(&[&check[..], &PSS, &["message"]].concat());
    fs::write(openssl.path("message"), b"something else").unwrap();
    assert!(!openssl.try_run(&[&check[..], &PSS, &["message"]].concat()).status.success());

    let key = PrivateKey::generate(Kind::Ed25519, 0).unwrap();
    fs::write(openssl.path("message"), MESSAGE).unwrap();
    fs::write(openssl.path("public"), key.public().to_pem()).unwrap();
    fs::write(openssl.path("signature"), key.sign(MESSAGE).unwrap()).unwrap();
    openssl.run(&[
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "public",
        "-rawin",
        "-in",
        "message",
        "-sigfile",
        "signature",
    ]);
}

#[test]
fn bees_checks_a_signature_of_openssl() {
    let Some(openssl) = Openssl::find("signs") else { return };
    openssl.run(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key"]);
    let sign = ["dgst", "-sha256", "-sign", "key", "-out", "signature"];
    openssl.run(&[&sign[..], &PSS, &["message"]].concat());
    let public: PublicKey = KeyFile::load(&openssl.path("key")).unwrap().key.public();
    let signature = || fs::read(openssl.path("signature")).unwrap();
    assert_eq!(public.verify(public.scheme(), MESSAGE, &signature()), Ok(()));
    assert!(public.verify(public.scheme(), b"something else", &signature()).is_err());
    // Another salt, or the older padding, is another scheme.
    let longer = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:64"];
    for options in [&longer[..], &[]] {
        openssl.run(&[&sign[..], options, &["message"]].concat());
        assert!(public.verify(public.scheme(), MESSAGE, &signature()).is_err(), "{options:?}");
    }
}
