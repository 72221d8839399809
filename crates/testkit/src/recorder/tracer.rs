//! Follows a program through the system calls that the filter stops.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calls::{Act, Call, Calls, Registers};
use super::journal::What;

/// Before the kernel does a call, and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The call has not begun, and will not if the process is killed now.
    Before,
    /// The call has returned to nobody yet.
    After,
}

/// What becomes of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Go,
    /// It is killed here, as by `kill -9`.
    Kill,
}

/// Whoever wants to know of every call, on the tracer's own thread: the process waits meanwhile.
pub(super) trait Watcher {
    /// Says what lies there when a process has just become the recorded program.
    fn begins(&mut self, process_id: i32) -> io::Result<Calls>;
    /// Whether bytes are wanted.
    fn wants_bytes(&self) -> bool;
    /// The number of the next thing that will be written down.
    fn now(&self) -> u64;
    /// Something is about to happen, or has.
    fn moment(&mut self, phase: Phase, act: &Act) -> Verdict;
    /// Something has happened.
    fn done(&mut self, process_id: i32, what: What) -> io::Result<()>;
}

struct UnderWay {
    call: Call,
    since: u64,
}

/// Follows one program from its start to its end.
pub(super) struct Tracer<W> {
    child: Pid,
    calls: Option<Calls>,
    under_way: HashMap<Pid, UnderWay>,
    watcher: W,
}

impl<W: Watcher> Tracer<W> {
    /// Starts `command`, which must be `cloakroom-traced`, as a child of the calling thread: only this thread
    /// can follow it, and it dies with it.
    pub(super) fn start(mut command: Command, watcher: W) -> io::Result<Self> {
        #[allow(clippy::zombie_processes, reason = "`follow` waits for it")]
        let child = command.spawn()?;
        let child = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        match waitpid(child, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => {}
            other => return Err(io::Error::other(format!("cloakroom-traced did not stop: {other:?}"))),
        }
        ptrace::seize(
            child,
            Options::PTRACE_O_EXITKILL
                | Options::PTRACE_O_TRACESYSGOOD
                | Options::PTRACE_O_TRACESECCOMP
                | Options::PTRACE_O_TRACEEXEC
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK,
        )?;
        kill(child, Signal::SIGCONT)?;
        Ok(Self { child, calls: None, under_way: HashMap::new(), watcher })
    }

    pub(super) fn process_id(&self) -> i32 {
        self.child.as_raw()
    }

    /// Follows until the program and all that it started are gone.
    ///
    /// # Errors
    /// If it did something that cannot be followed. It is killed then.
    pub(super) fn follow(mut self) -> io::Result<ExitStatus> {
        let mut ended = None;
        let mut lost = None;
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let status = match waitpid(None, Some(flags)) {
                Ok(status) => status,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::ECHILD) => break,
                Err(error) => return Err(error.into()),
            };
            match status {
                WaitStatus::Exited(pid, code) if pid == self.child => {
                    ended = Some(ExitStatus::from_raw(code << 8));
                }
                WaitStatus::Signaled(pid, signal, core) if pid == self.child => {
                    ended = Some(ExitStatus::from_raw(signal as i32 | i32::from(core) << 7));
                }
                status => {
                    if let Err(error) = self.stopped(status) {
                        lost.get_or_insert(error);
                        self.end()?;
                        // Another process of the program, perhaps.
                        status.pid().map_or(Ok(()), |pid| go(kill(pid, Signal::SIGKILL)))?;
                    }
                }
            }
        }
        // What the kernel was busy with when they died may be there.
        for under_way in std::mem::take(&mut self.under_way).into_values() {
            if let Some(what @ What::Write { .. }) = under_way.call.what {
                self.watcher.done(self.child.as_raw(), what)?;
            }
        }
        self.watcher.done(self.child.as_raw(), What::Ended)?;
        match (lost, ended) {
            (Some(error), _) => Err(error),
            (None, Some(status)) => Ok(status),
            (None, None) => Err(io::Error::other("nobody saw it end")),
        }
    }

    fn stopped(&mut self, status: WaitStatus) -> io::Result<()> {
        match status {
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_SECCOMP) => self.entered(pid),
            WaitStatus::PtraceSyscall(pid) => self.returned(pid),
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) if self.calls.is_none() => {
                self.calls = Some(self.watcher.begins(pid.as_raw())?);
                go(ptrace::cont(pid, None))
            }
            WaitStatus::PtraceEvent(pid, ..) => go(ptrace::cont(pid, None)),
            WaitStatus::Stopped(pid, signal) => go(ptrace::cont(pid, signal)),
            // A thread's end.
            _ => Ok(()),
        }
    }

    fn entered(&mut self, pid: Pid) -> io::Result<()> {
        let Some(calls) = &mut self.calls else { return go(ptrace::cont(pid, None)) };
        let Some(registers) = gone(ptrace::getregs(pid))? else { return Ok(()) };
        let call = Registers {
            number: registers.orig_rax.cast_signed(),
            arguments: [
                registers.rdi,
                registers.rsi,
                registers.rdx,
                registers.r10,
                registers.r8,
                registers.r9,
            ],
        };
        let call = match calls.entered(pid.as_raw(), call, self.watcher.wants_bytes()) {
            Ok(Some(call)) => call,
            Ok(None) => return go(ptrace::cont(pid, None)),
            // A process that was killed meanwhile cannot be looked into any more.
            Err(error) => return if gone(ptrace::getregs(pid))?.is_some() { Err(error) } else { Ok(()) },
        };
        if self.watcher.moment(Phase::Before, &call.act) == Verdict::Kill {
            return self.end();
        }
        self.under_way.insert(pid, UnderWay { call, since: self.watcher.now() });
        go(ptrace::syscall(pid, None))
    }

    fn returned(&mut self, pid: Pid) -> io::Result<()> {
        let Some(UnderWay { call, since }) = self.under_way.remove(&pid) else {
            return go(ptrace::cont(pid, None));
        };
        let Some(registers) = gone(ptrace::getregs(pid))? else {
            self.under_way.insert(pid, UnderWay { call, since });
            return Ok(());
        };
        let result = registers.rax.cast_signed();
        let act = call.act.clone();
        if let Some(calls) = &mut self.calls
            && let Some(what) = calls.returned(pid.as_raw(), call, result, since)?
        {
            self.watcher.done(self.child.as_raw(), what)?;
        }
        if result >= 0 && self.watcher.moment(Phase::After, &act) == Verdict::Kill {
            return self.end();
        }
        go(ptrace::cont(pid, None))
    }

    fn end(&self) -> io::Result<()> {
        go(kill(self.child, Signal::SIGKILL))
    }
}

/// `None` where the thread was killed meanwhile.
fn gone<T>(asked: nix::Result<T>) -> io::Result<Option<T>> {
    match asked {
        Ok(answer) => Ok(Some(answer)),
        Err(nix::errno::Errno::ESRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn go(asked: nix::Result<()>) -> io::Result<()> {
    gone(asked).map(drop)
}
