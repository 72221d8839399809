//! PostgreSQL with pgcrypto's plain AES: values encrypted in the server under a key that each statement brings,
//! as a team does that adds two functions to what it has. A quarter of the memory for its buffers, as its manual
//! advises; statements prepared once; no TLS, which spares it what the vault's costs the vault.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::child::Child;
use crate::drive::Work;
use crate::error::LoadError;
use crate::house::free_ports;
use crate::machine::Machine;
use crate::people::{Draw, Place};

const NAME: &str = "PostgreSQL";
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A pool as applications have it; several statements are under way on each connection.
const CONNECTIONS: usize = 16;
/// Values a statement while filling.
const FILL: u64 = 2_000;
/// Rows: more would change nothing but the time to fill.
const ROWS_MAX: u64 = 1_000_000;
/// Whom a system's root becomes, since the server runs for anybody but root: Debian's package makes this user.
const USER: &str = "postgres";
/// AES-256.
const KEY: [u8; 32] = [7; 32];

const TABLE: &str = "CREATE EXTENSION pgcrypto;
    CREATE TABLE personal (id int8 PRIMARY KEY, iv bytea NOT NULL, sealed bytea NOT NULL)";
const INSERT: &str = "INSERT INTO personal SELECT id, iv, encrypt_iv(plain, $3, iv, 'aes') FROM \
    (SELECT id, plain, gen_random_bytes(16) AS iv FROM unnest($1::int8[], $2::bytea[]) AS new(id, plain)) new";
const SELECT: &str = "SELECT decrypt_iv(sealed, $2, iv, 'aes') FROM personal WHERE id = $1";

/// A server with a table of values.
pub(super) struct Postgres {
    child: Child,
    config: Config,
    rows: u64,
    readers: Vec<(std::sync::Arc<Client>, Statement)>,
    _folder: tempfile::TempDir,
}

fn broken(error: &tokio_postgres::Error) -> LoadError {
    LoadError::Server { name: NAME, what: error.to_string() }
}

fn absent(what: &str) -> LoadError {
    LoadError::Server { name: NAME, what: what.to_owned() }
}

impl Postgres {
    /// Starts one in a folder of its own and fills it with the values of `people`.
    ///
    /// # Errors
    /// [`LoadError::Server`].
    pub(super) async fn start(people: u32) -> Result<Self, LoadError> {
        let programs = programs()?;
        // Not below ours: the user that it runs as need not be able to reach that.
        let folder = tempfile::Builder::new().prefix("cloakroom-postgres-").tempdir();
        let folder = folder.map_err(LoadError::system("making a folder"))?;
        let data = folder.path().join("data");
        let become_user = becoming(folder.path())?;
        let mut make = become_user.iter().cloned().chain([programs.join("initdb").into()]);
        let program = make.next().unwrap_or_default();
        let made = Command::new(program)
            .args(make)
            .args(["--username=bench", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .output()
            .map_err(LoadError::system("initdb"))?;
        if !made.status.success() {
            return Err(absent(&format!("initdb: {}", String::from_utf8_lossy(&made.stderr).trim())));
        }
        let [address, ..] = free_ports()?;
        let buffers = format!("shared_buffers={}MB", Machine::look().memory_mib / 4);
        let mut arguments: Vec<OsString> = become_user;
        arguments.push(programs.join("postgres").into());
        arguments.extend(["-D".into(), data.into(), "-c".into(), buffers.into()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories="] {
            arguments.extend(["-c".into(), setting.into()]);
        }
        arguments.extend(["-c".into(), format!("port={}", address.port()).into()]);
        let program = PathBuf::from(arguments.remove(0));
        let mut child = Child::start(NAME, &program, &arguments, folder.path().join("log"))?;
        let config = configuration(address);
        let client = first(&mut child, &config).await?;
        let rows = Place::of(people, 0).0.min(ROWS_MAX);
        fill(&client, rows).await.map_err(|error| broken(&error))?;
        let mut postgres = Self { child, config, rows, readers: Vec::new(), _folder: folder };
        for _ in 0..CONNECTIONS {
            let client = connect(&postgres.config).await.map_err(|error| broken(&error))?;
            let select = client.prepare(SELECT).await.map_err(|error| broken(&error))?;
            postgres.readers.push((client.into(), select));
        }
        Ok(postgres)
    }

    /// Its process id: the one that starts the others, which do the work.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Ends it; its clients first, for which it would wait.
    pub(super) async fn stop(mut self) {
        self.readers.clear();
        self.child.stop().await;
    }
}

/// Where Debian's package, or the path, has them.
fn programs() -> Result<PathBuf, LoadError> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = versions.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = versions.chain(std::env::split_paths(&path)).collect();
    found.retain(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file());
    found.into_iter().next().ok_or_else(|| absent("is not here (scripts/setup.sh bench)"))
}

/// What goes before a command so that root runs it as somebody else, to whom `folder` is given.
fn becoming(folder: &Path) -> Result<Vec<OsString>, LoadError> {
    let owner = std::fs::metadata(folder).map_err(LoadError::file(folder))?.uid();
    if owner != 0 {
        return Ok(Vec::new());
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = users.lines().find_map(|line| {
        let mut parts = line.split(':').skip_while(|name| *name != USER).skip(2);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    });
    let (user, group): (u32, u32) = ids.ok_or_else(|| absent("has no user that it could run as"))?;
    chown(folder, Some(user), Some(group)).map_err(LoadError::file(folder))?;
    // Asked for again: becoming somebody else forgets to end with the parent.
    let become_user = format!("setpriv --reuid={user} --regid={group} --clear-groups --pdeathsig KILL --");
    Ok(become_user.split(' ').map(OsString::from).collect())
}

fn configuration(address: SocketAddr) -> Config {
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port()).user("bench").dbname("postgres");
    config
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn first(child: &mut Child, config: &Config) -> Result<Client, LoadError> {
    let deadline = Instant::now() + STARTS_WITHIN;
    loop {
        child.ended()?;
        match connect(config).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => return Err(child.failed(&error.to_string())),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn fill(client: &Client, rows: u64) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(TABLE).await?;
    let insert = client.prepare(INSERT).await?;
    let mut first = 0;
    while first < rows {
        let end = first.saturating_add(FILL).min(rows);
        let ids: Vec<i64> = (first..end).filter_map(|place| i64::try_from(place).ok()).collect();
        let values: Vec<Vec<u8>> = (first..end).map(|at| Place(at).value().as_bytes().to_vec()).collect();
        client.execute(&insert, &[&ids, &values, &&KEY[..]]).await?;
        first = end;
    }
    // As after any bulk load: statistics, and a table that reads need not tidy.
    client.batch_execute("VACUUM (ANALYZE) personal").await
}

/// Reads random rows.
pub(super) struct Select {
    readers: Vec<(std::sync::Arc<Client>, Statement)>,
    rows: u64,
}

impl Select {
    pub(super) fn of(postgres: &Postgres) -> Self {
        Self { readers: postgres.readers.clone(), rows: postgres.rows }
    }
}

impl Work for Select {
    fn items(&self) -> u64 {
        1
    }

    async fn call(&self, connection: usize, draw: &mut Draw) -> Result<(), LoadError> {
        let at = connection.checked_rem(self.readers.len()).and_then(|at| self.readers.get(at));
        let (client, select) = at.ok_or_else(|| LoadError::Broken("no connection".to_owned()))?;
        let place = draw.below(usize::try_from(self.rows).unwrap_or(usize::MAX)) as u64;
        let id = i64::try_from(place).unwrap_or(i64::MAX);
        let row = client.query_one(select, &[&id, &&KEY[..]]).await.map_err(|error| broken(&error))?;
        let value: &[u8] = row.try_get(0).map_err(|error| broken(&error))?;
        if value == Place(place).value().as_bytes() {
            Ok(())
        } else {
            let what = "another value".to_owned();
            Err(LoadError::Wrong { verb: NAME, reference: place.to_string(), what })
        }
    }
}
