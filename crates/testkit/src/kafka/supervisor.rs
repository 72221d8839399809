//! A shell between a test process and the broker it started, so that the broker never outlives the test:
//! not after a panic, a kill -9 or a Ctrl-C, and whichever thread started it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Obeys a verb per line; at the end of its input kills what it started and removes the folder.
const SCRIPT: &str = r#"
folder=$1; shift
child=
gone() { [ -n "$child" ] && kill -9 "$child" 2>/dev/null; wait "$child" 2>/dev/null; child=; }
while read -r verb; do
  case $verb in
    start) : > "$folder/log"; "$@" </dev/null >>"$folder/log" 2>&1 & child=$!; echo started ;;
    kill) gone; echo killed ;;
    alive) if [ -n "$child" ] && kill -0 "$child" 2>/dev/null; then echo yes; else echo no; fi ;;
    keep) folder= ;;
  esac
done
gone
[ -n "$folder" ] && rm -rf "$folder"
exit 0
"#;

pub(super) struct Supervisor {
    shell: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Supervisor {
    /// Over `command`, whose output goes to `folder/log`; the folder goes when the supervisor does.
    pub(super) fn over(folder: &Path, command: Vec<String>) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "kafka-supervisor"])
            .arg(folder)
            .args(command)
            .process_group(0) // a Ctrl-C is for the test; this one then cleans up
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
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
