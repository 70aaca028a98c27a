//! The key material of a control plane, as kubeadm lays it out: one cluster CA, one front-proxy CA, and what they sign.

mod client;
mod subject;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

pub use client::{ClientAuth, KubeconfigUser};

/// The files of one control plane in one folder. Reading and writing them is what kube-apiservers and agents share.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

/// A certificate (leaf first, then intermediates) with its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// One or more certificates.
    pub cert_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

/// Which authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// `ca.crt`, which signs users and servers.
    Cluster,
    /// `front-proxy-ca.crt`, which signs front proxies.
    FrontProxy,
}

/// The extended key usage of an issued certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// `clientAuth`.
    Client,
    /// `serverAuth`.
    Server,
    /// No extension at all: good for any usage.
    Absent,
}

/// What a client certificate says. `Request::new` gives one that is valid for a day and has client usage.
#[derive(Clone, Debug)]
pub struct Request {
    /// The user's name.
    pub common_name: String,
    /// Organizations of the subject, which are the user's groups.
    pub groups: Vec<String>,
    /// The attribute 1.3.6.1.4.1.57683.2 of the subject; `None`: there is none.
    pub uid: Option<String>,
    /// The first second in which it is valid.
    pub not_before: OffsetDateTime,
    /// The last second in which it is valid.
    pub not_after: OffsetDateTime,
    /// The extended key usage.
    pub usage: Usage,
    /// The CA that signs it.
    pub authority: Authority,
    /// Signed by a fresh intermediate CA, which is appended to the chain.
    pub intermediate: bool,
}

impl Request {
    /// Valid from an hour ago until tomorrow, for clients, signed by the cluster's CA.
    pub fn new(common_name: &str, groups: &[&str]) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            common_name: common_name.into(),
            groups: groups.iter().map(|g| (*g).into()).collect(),
            uid: None,
            not_before: now - Duration::hours(1),
            not_after: now + Duration::days(1),
            usage: Usage::Client,
            authority: Authority::Cluster,
            intermediate: false,
        }
    }
}

impl Pki {
    /// Makes every file anew in `dir` (created if missing).
    pub fn generate(dir: &Path) -> Result<Self> {
        Self::generate_with(dir, &[], &[])
    }

    /// As [`Pki::generate`], with more names and addresses in the servers' certificate.
    pub fn generate_with(dir: &Path, names: &[&str], addresses: &[IpAddr]) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("folder {}", dir.display()))?;
        let pki = Self {
            dir: dir.to_owned(),
        };
        let cluster = authority("kubernetes")?;
        let front_proxy = authority("front-proxy-ca")?;
        pki.write("ca", &cluster.pem(), &cluster.key().serialize_pem())?;
        pki.write(
            "front-proxy-ca",
            &front_proxy.pem(),
            &front_proxy.key().serialize_pem(),
        )?;

        let mut server = leaf_params(&Request {
            usage: Usage::Server,
            ..Request::new("kube-apiserver", &[])
        });
        server.subject_alt_names = server_names(names, addresses)?;
        let key = KeyPair::generate()?;
        pki.write(
            "apiserver",
            &server.signed_by(&key, &cluster)?.pem(),
            &key.serialize_pem(),
        )?;

        for (file, request) in [
            (
                "front-proxy-client",
                Request {
                    authority: Authority::FrontProxy,
                    ..Request::new("front-proxy-client", &[])
                },
            ),
            (
                "admin",
                Request::new("kubernetes-admin", &["system:masters"]),
            ),
            ("alice", Request::new("alice", &["devs"])),
        ] {
            let identity = pki.issue(&request)?;
            pki.write(file, &identity.cert_pem, &identity.key_pem)?;
        }
        Ok(pki)
    }

    /// Uses the files that [`Pki::generate`] left in `dir`.
    pub fn load(dir: &Path) -> Result<Self> {
        let pki = Self {
            dir: dir.to_owned(),
        };
        ensure!(
            pki.path("ca.crt").is_file(),
            "{} holds no ca.crt",
            dir.display()
        );
        Ok(pki)
    }

    /// The folder with all files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file by its name in kubeadm's layout, for example `ca.crt`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The content of a file.
    ///
    /// # Errors
    /// It is not there.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.path(file);
        fs::read_to_string(&path).with_context(|| format!("file {}", path.display()))
    }

    /// `<name>.crt` and `<name>.key`.
    pub fn identity(&self, name: &str) -> Result<Identity> {
        Ok(Identity {
            cert_pem: self.read(&format!("{name}.crt"))?,
            key_pem: self.read(&format!("{name}.key"))?,
        })
    }

    /// The administrator: in the group `system:masters`.
    ///
    /// # Errors
    /// The files are not there.
    pub fn admin(&self) -> Result<Identity> {
        self.identity("admin")
    }

    /// A user with few rights.
    ///
    /// # Errors
    /// The files are not there.
    pub fn alice(&self) -> Result<Identity> {
        self.identity("alice")
    }

    /// The certificate of a front proxy.
    ///
    /// # Errors
    /// The files are not there.
    pub fn front_proxy_client(&self) -> Result<Identity> {
        self.identity("front-proxy-client")
    }

    /// Signs a client certificate.
    pub fn issue(&self, request: &Request) -> Result<Identity> {
        let (file, common_name) = match request.authority {
            Authority::Cluster => ("ca", "kubernetes"),
            Authority::FrontProxy => ("front-proxy-ca", "front-proxy-ca"),
        };
        let root_key = KeyPair::from_pem(&self.read(&format!("{file}.key"))?)?;
        let root = Issuer::new(authority_params(common_name), root_key);
        let key = KeyPair::generate()?;
        let params = leaf_params(request);
        let cert_pem = if request.intermediate {
            let middle = CertifiedIssuer::signed_by(
                authority_params("intermediate"),
                KeyPair::generate()?,
                &root,
            )?;
            subject::sign(&params, &key, &middle)? + &middle.pem()
        } else {
            subject::sign(&params, &key, &root)?
        };
        Ok(Identity {
            cert_pem,
            key_pem: key.serialize_pem(),
        })
    }

    /// Writes `<file>.crt` and `<file>.key` for a server with these names beside the usual ones, signed by the cluster CA.
    pub fn issue_server(&self, file: &str, names: &[&str]) -> Result<()> {
        let root_key = KeyPair::from_pem(&self.read("ca.key")?)?;
        let root = Issuer::new(authority_params("kubernetes"), root_key);
        let key = KeyPair::generate()?;
        let mut params = leaf_params(&Request {
            usage: Usage::Server,
            ..Request::new("kube-apiserver", &[])
        });
        params.subject_alt_names = server_names(names, &[])?;
        let certificate = params.signed_by(&key, &root)?;
        self.write(file, &certificate.pem(), &key.serialize_pem())
    }

    fn write(&self, name: &str, cert: &str, key: &str) -> Result<()> {
        fs::write(self.path(&format!("{name}.crt")), cert)?;
        fs::write(self.path(&format!("{name}.key")), key)?;
        Ok(())
    }
}

impl Identity {
    /// A certificate that no authority of any control plane signed.
    pub fn self_signed(common_name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let cert = leaf_params(&Request::new(common_name, &[])).self_signed(&key)?;
        Ok(Self {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// The certificates for rustls, the leaf first.
    ///
    /// # Errors
    /// They are no PEM.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        Ok(CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect::<Result<_, _>>()?)
    }

    /// The key for rustls.
    ///
    /// # Errors
    /// It is no PEM.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>> {
        Ok(PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?)
    }
}

fn authority(common_name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    Ok(CertifiedIssuer::self_signed(
        authority_params(common_name),
        KeyPair::generate()?,
    )?)
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = leaf_params(&Request {
        usage: Usage::Absent,
        ..Request::new(common_name, &[])
    });
    params.not_after = params.not_before + Duration::days(3650);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

fn leaf_params(request: &Request) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = request.not_before;
    params.not_after = request.not_after;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = match request.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Absent => vec![],
    };
    params.distinguished_name = subject::name(
        &request.common_name,
        &request.groups,
        request.uid.as_deref(),
    );
    params
}

/// The names and addresses that kubeadm gives an apiserver, and every loopback address that tests listen on.
fn server_names(names: &[&str], addresses: &[IpAddr]) -> Result<Vec<SanType>> {
    let service = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let loopback = (1..=40).map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    let mut sans = Vec::new();
    for name in service.iter().chain(names) {
        sans.push(SanType::DnsName((*name).try_into()?));
    }
    let all = loopback
        .chain([IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1))])
        .chain(addresses.iter().copied());
    sans.extend(all.map(SanType::IpAddress));
    Ok(sans)
}
