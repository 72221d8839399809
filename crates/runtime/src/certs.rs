//! The development authority, so that TLS is mutual from the first run on, and signing requests for a
//! real authority. The authority's key lies in a file: for machines whose loss is no loss.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakroom_core::clock::UnixMs;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::RuntimeError;
use crate::identity::{Principal, TlsFiles, refuse_open_to_others};

/// The trust domain of everything that the development authority issues.
pub const TRUST_DOMAIN: &str = "cloakroom.local";

/// How long the development authority itself lasts.
const AUTHORITY_DAYS: i64 = 3650;

/// 9999-12-31T23:59:59, the last time that a certificate can name (RFC 5280, section 4.1.2.5).
const LAST_UNIX_S: i64 = 253_402_300_799;

/// A certificate holds from an hour before it is made: clocks differ.
const EARLIER_S: i64 = 3600;

/// The development authority in a folder: `ca.pem` (0644) and `ca.key` (0600).
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Whose certificate it is, and what it is to say.
#[derive(Clone, Debug, Default)]
pub struct Holder {
    /// Names the files and stands as the common name: lower-case letters, digits, `.`, `-`, `_`.
    pub name: String,
    /// The SPIFFE id; `None` makes a certificate that names nobody.
    pub principal: Option<String>,
    /// DNS names and IP addresses that it may serve under.
    pub hosts: Vec<String>,
}

impl Holder {
    /// A service of the development trust domain: `spiffe://cloakroom.local/<name>`, served on this machine.
    pub fn local(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            principal: Some(format!("spiffe://{TRUST_DOMAIN}/{name}")),
            hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
        }
    }

    fn params(&self) -> Result<CertificateParams, RuntimeError> {
        let usable = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.bytes().all(usable) {
            return Err(RuntimeError::Name {
                what: "name",
                wanted: "lower-case letters, digits, '.', '-', '_'",
            });
        }
        let mut names = Vec::new();
        for host in &self.hosts {
            names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            });
        }
        if let Some(uri) = &self.principal {
            let principal = Principal::parse(uri)
                .ok_or(RuntimeError::Name { what: "SPIFFE id", wanted: "spiffe://trust-domain/path" })?;
            names.push(SanType::URI(principal.as_str().try_into()?));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&self.name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params)
    }
}

impl Authority {
    /// Opens the authority in `folder`, or makes one that lasts ten years.
    ///
    /// # Errors
    /// [`RuntimeError::File`] for a file that cannot be read or written, [`RuntimeError::OpenToOthers`]
    /// for a key that is not its owner's alone, [`RuntimeError::Certificate`] for files that hold neither.
    pub fn open_or_create(folder: &Path, now_unix_ms: UnixMs) -> Result<Self, RuntimeError> {
        std::fs::create_dir_all(folder).map_err(RuntimeError::file(folder))?;
        let (key_path, certificate_path) = (folder.join("ca.key"), folder.join("ca.pem"));
        let key = match read(&key_path)? {
            Some(pem) => {
                refuse_open_to_others(&key_path)?;
                KeyPair::from_pem(&pem)?
            }
            None if certificate_path.exists() => {
                return Err(RuntimeError::file(key_path)(io::ErrorKind::NotFound.into()));
            }
            None => {
                let key = KeyPair::generate()?;
                write(&key_path, &key.serialize_pem(), 0o600)?;
                key
            }
        };
        let pem = match read(&certificate_path)? {
            Some(pem) => pem,
            // Also after a crash between the two files: the key stays, its certificate is made.
            None => {
                let pem = authority_params(now_unix_ms).self_signed(&key)?.pem();
                write(&certificate_path, &pem, 0o644)?;
                pem
            }
        };
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::from_ca_cert_pem(&pem, key)? })
    }

    /// Issues a certificate for servers and clients alike, valid for `days` from now, and writes
    /// `<name>.pem` (0644) and `<name>.key` (0600) beside the authority, replacing former ones.
    ///
    /// # Errors
    /// [`RuntimeError::Name`] for a name or SPIFFE id that cannot stand in a certificate,
    /// [`RuntimeError::File`] for a file that cannot be written.
    pub fn issue(&self, holder: &Holder, now_unix_ms: UnixMs, days: i64) -> Result<TlsFiles, RuntimeError> {
        let mut params = holder.params()?;
        lasting(&mut params, now_unix_ms, days);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = TlsFiles::named(&self.folder, &holder.name);
        write(&files.key, &key.serialize_pem(), 0o600)?;
        write(&files.cert, &certificate.pem(), 0o644)?;
        Ok(files)
    }
}

/// Makes a key (`<name>.key`, 0600) and a signing request for a real authority (`<name>.csr`) in
/// `folder`. Returns the request's path.
///
/// # Errors
/// As [`Authority::issue`].
pub fn request(folder: &Path, holder: &Holder) -> Result<PathBuf, RuntimeError> {
    std::fs::create_dir_all(folder).map_err(RuntimeError::file(folder))?;
    let params = holder.params()?;
    let key = KeyPair::generate()?;
    let csr = params.serialize_request(&key)?.pem()?;
    let path = folder.join(format!("{}.csr", holder.name));
    write(&folder.join(format!("{}.key", holder.name)), &key.serialize_pem(), 0o600)?;
    write(&path, &csr, 0o644)?;
    Ok(path)
}

fn authority_params(now_unix_ms: UnixMs) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("Cloakroom development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasting(&mut params, now_unix_ms, AUTHORITY_DAYS);
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn lasting(params: &mut CertificateParams, now_unix_ms: UnixMs, days: i64) {
    let epoch = date_time_ymd(1970, 1, 1);
    let at = |unix_s: i64| epoch + Duration::from_secs(unix_s.clamp(0, LAST_UNIX_S).unsigned_abs());
    let now = now_unix_ms / 1000;
    let end = now.saturating_add(days.saturating_mul(86_400));
    params.not_before = at(now.min(end).saturating_sub(EARLIER_S));
    params.not_after = at(end);
}

fn read(path: &Path) -> Result<Option<String>, RuntimeError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RuntimeError::file(path)(error)),
    }
}

/// Writes beside the file and renames over it: whoever reads sees the former or the new one, whole.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), RuntimeError> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written = || -> io::Result<()> {
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    written().map_err(|error| {
        let _ = std::fs::remove_file(&beside); // the error that matters is the first one
        RuntimeError::file(path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use x509_parser::prelude::FromDer;

    const NOW: UnixMs = 1_800_000_000_000;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn an_authority_is_made_once_and_opened_after() {
        let folder = tempfile::tempdir().unwrap();
        Authority::open_or_create(folder.path(), NOW).unwrap();
        let first = std::fs::read(folder.path().join("ca.pem")).unwrap();
        assert_eq!(mode(&folder.path().join("ca.key")), 0o600);
        let authority = Authority::open_or_create(folder.path(), NOW + 1).unwrap();
        assert_eq!(std::fs::read(folder.path().join("ca.pem")).unwrap(), first);
        let files = authority.issue(&Holder::local("shop"), NOW, 30).unwrap();
        assert_eq!(mode(&files.key), 0o600);
        assert_eq!(mode(&files.cert), 0o644);
        assert_eq!(files.ca, folder.path().join("ca.pem"));
    }

    #[test]
    fn an_authority_whose_key_is_lost_or_open_is_not_replaced_silently() {
        let folder = tempfile::tempdir().unwrap();
        Authority::open_or_create(folder.path(), NOW).unwrap();
        let key = folder.path().join("ca.key");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let open = Authority::open_or_create(folder.path(), NOW).err().unwrap();
        assert!(matches!(open, RuntimeError::OpenToOthers { mode: 0o644, .. }), "{open}");
        std::fs::remove_file(&key).unwrap();
        assert!(matches!(Authority::open_or_create(folder.path(), NOW), Err(RuntimeError::File { .. })));
    }

    #[test]
    fn names_that_would_leave_the_folder_or_the_certificate_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), NOW).unwrap();
        for name in ["", "../shop", "Shop", ".shop", "a b"] {
            let holder = Holder { name: name.into(), ..Holder::local("x") };
            assert!(matches!(authority.issue(&holder, NOW, 1), Err(RuntimeError::Name { .. })), "{name}");
        }
        let holder = Holder { principal: Some("https://x/y".into()), ..Holder::local("shop") };
        assert!(authority.issue(&holder, NOW, 1).is_err());
    }

    #[test]
    fn no_number_of_days_is_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), NOW).unwrap();
        for days in [i64::MIN, -1, 0, 1, i64::MAX] {
            authority.issue(&Holder::local("shop"), NOW, days).unwrap();
        }
    }

    #[test]
    fn a_signing_request_carries_the_spiffe_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = request(folder.path(), &Holder::local("shop")).unwrap();
        let pem = std::fs::read(path).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let (_, csr) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).unwrap();
        let uri = b"spiffe://cloakroom.local/shop";
        assert!(csr.certification_request_info.raw.windows(uri.len()).any(|window| window == uri));
        assert_eq!(mode(&folder.path().join("shop.key")), 0o600);
    }
}
