//! A shell between a test process and a broker, so that no broker outlives the tests: not after a panic, a
//! kill -9 or a Ctrl-C, and whichever thread started it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Obeys a verb per line; at the end of its input kills what it started and removes the folder.
const OWN: &str = r#"
folder=$1; shift
child=
gone() { [ -n "$child" ] && kill -9 "$child" 2>/dev/null; wait "$child" 2>/dev/null; child=; }
while read -r verb; do
  case $verb in
    start) : >"$folder/log"; "$@" </dev/null >>"$folder/log" 2>&1 & child=$!; echo started ;;
    kill) gone; echo killed ;;
    stop) kill "$child"; wait "$child" 2>/dev/null; child=; echo stopped ;;
    alive) if [ -n "$child" ] && kill -0 "$child" 2>/dev/null; then echo yes; else echo no; fi ;;
    keep) folder= ;;
  esac
done
gone
[ -n "$folder" ] && rm -rf "$folder"
exit 0
"#;

/// Ends when nobody has held a lock on the users' file for a moment: a test run starts one process after the
/// other, and the next one is there within it.
const SHARED: &str = r#"
folder=$1 users=$2 notice=$3; shift 3
exec 9<>"$users"
"$@" </dev/null >"$folder/log" 2>&1 9>&- & child=$!
while sleep 3 9>&- && kill -0 "$child" 2>/dev/null; do
  flock -n -x 9 && break
done
rm -f "$notice"
kill -9 "$child" 2>/dev/null; wait "$child" 2>/dev/null
rm -rf "$folder"
exit 0
"#;

/// A broker that belongs to one test.
pub(super) struct Supervisor {
    shell: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Supervisor {
    /// Over `command`, whose output goes to `folder/log`; the folder goes when the supervisor does.
    pub(super) fn over(folder: &Path, command: Vec<String>) -> Self {
        let mut shell = shell(OWN);
        shell.arg(folder).args(command).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("a shell");
        let orders = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().expect("piped"));
        Self { shell, orders, answers }
    }

    pub(super) fn start(&mut self) {
        assert_eq!(self.order("start"), "started");
    }

    pub(super) fn kill(&mut self) {
        assert_eq!(self.order("kill"), "killed");
    }

    /// Asks the broker to end, and waits for it.
    pub(super) fn stop(&mut self) {
        assert_eq!(self.order("stop"), "stopped");
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.order("alive") == "no"
    }

    /// Leaves the folder where it is.
    pub(super) fn keep_folder(&mut self) {
        let orders = self.orders.as_mut().expect("open until drop");
        orders.write_all(b"keep\n").expect("the supervisor listens");
    }

    fn order(&mut self, verb: &str) -> String {
        let orders = self.orders.as_mut().expect("open until drop");
        writeln!(orders, "{verb}").expect("the supervisor listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the supervisor answers");
        answer.trim_end().to_owned()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.orders.take(); // the end of its input
        let _ended = self.shell.wait();
    }
}

/// Starts `command` for several processes, until none holds a lock on `users`; then `notice` and `folder` go.
pub(super) fn start_shared(folder: &Path, users: &Path, notice: &Path, command: Vec<String>) -> Child {
    let mut shell = shell(SHARED);
    shell.args([folder, users, notice]).args(command);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell")
}

/// Whether brokers can be shared here.
pub(super) fn can_share() -> bool {
    Command::new("flock").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "kafka-supervisor"]);
    shell.process_group(0); // a Ctrl-C is for the test; this one then cleans up
    shell
}
