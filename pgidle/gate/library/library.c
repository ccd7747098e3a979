/*
 * Preloaded into the postmaster (LD_PRELOAD), so that it shares its listening sockets with the supervisor and accepts
 * connections only while the gate is open.
 *
 * There is one listening socket for each address. It belongs to the supervisor and exists for as long as the supervisor
 * does. Postgres still creates sockets of its own, binds them, listens and waits for clients; this library interposes
 * the C library functions that it uses for that, and changes what they do to those sockets:
 *
 * bind, listen   An address that the supervisor holds is not bound again: its listener replaces Postgres's new socket.
 *                A Unix socket that the supervisor does not hold yet is left to Postgres to make, and a descriptor of
 *                it is sent to the supervisor.
 * open           A Unix socket's lock file that is not a regular file cannot be read: in a folder that anybody may
 *                write, a pipe in its place would block the start for ever.
 * unlink         The file of a held Unix socket stays. So does the lock file beside it once both are Postgres's,
 *                because the supervisor then writes its own name into it. A lock that Postgres finds when it starts is
 *                removed as usual, and so is its own where unix_socket_directories names one folder twice.
 * chmod, chown   On the file of a held Unix socket that another user owns, they succeed without doing anything.
 * select         How the postmaster waits in versions up to 15. While the gate is shut, listeners are taken out of the
 *                set; the channel is always added to it.
 * epoll_ctl,     How it waits from version 16 on. The registration of a listener is remembered, and made only while the
 * epoll_wait     gate is open. A wait that ends with nothing but an order fails with EINTR, and Postgres waits again.
 *                Once Postgres has begun to end it makes a new epoll set, without listeners and therefore without the
 *                channel: no orders are obeyed from then on.
 * accept         Fails while the gate is shut. That only happens when Postgres notices a client and a stop or a crash
 *                in the same round.
 * kill           Signalling a child to end is the first sign of a crash, so the gate shuts at once. Ending a single
 *                background worker looks the same; the supervisor tells the two apart by the pid, and opens the gate
 *                again.
 * sigaction      Wrapped so that a signal that stops the postmaster shuts the gate before Postgres has even looked at
 *                it: a smart shutdown kills nobody, and would refuse new clients for as long as the longest session
 *                lasts.
 *
 * The channel is a SOCK_SEQPACKET pair that carries records of four int32: a kind and three numbers (`enum kind` in
 * library.h here, gate/channel.py at the other end). Orders are carried out between two waits, and answered by STATE.
 * An order to open says how many alarms (CHILD, STOP) the supervisor has received, and is void if there has been
 * another since: the gate never opens on a Postgres that has begun to end. A record that the channel has no room for is
 * sent later, and until then no order is answered. When the supervisor is gone, the gate is shut.
 *
 * The supervisor can end a listener (shutdown(2)), so that nobody new can connect to it. Whoever is still in its queue
 * is accepted before anybody else: by the listener at the same address or, where Postgres has none, by any.
 *
 * All of this is for the postmaster alone, recognised by a symbol that its program exports: a script in its place has
 * the library loaded too, and passes it on. Processes that the postmaster forks inherit the library, and
 * pthread_atfork() switches it off there. Programs that it executes (archive_command, COPY PROGRAM) get neither the
 * library, nor a descriptor of ours, nor our variables. If a future version waits with some other function, WAITS is
 * never sent, and the supervisor knows that its orders have no effect. There is no heap and no Python header: this is
 * built like one of Python's extension modules, and never imported.
 */
#include "library.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

struct listener listeners[MOST];
int count, inherited;
int channel = -1;
pid_t supervisor;
pid_t postmaster;
atomic_bool is_open;

bool is_postmaster(void)
{
	return postmaster != 0 && getpid() == postmaster;
}

struct listener *find(int fd)
{
	for EACH (one)
		if (one->fd == fd && is_postmaster())
			return one;
	return NULL;
}

/* Runs in every process that the postmaster forks. Listeners that Postgres has bound it closes there itself. */
static void retire(void)
{
	postmaster = 0;
	(void)close(channel);
	for EACH (one)
		if (one->given >= 0)
			(void)close(one->given);
}

__attribute__((constructor)) static void begin(void)
{
	const char *named = getenv("PGIDLE_SUPERVISOR");
	const char *others = getenv("PGIDLE_LD_PRELOAD");
	const char *self = getenv("PGIDLE_SHIM");
	const char *orders = getenv("PGIDLE_CHANNEL");
	char *given = getenv("PGIDLE_LISTENERS"); /* 5,6,7 */

	/* Postgres exports its symbols, for its extensions. */
	if (dlsym(RTLD_DEFAULT, "PostmasterMain") == NULL)
		return;
	/* PDEATHSIG survives exec but not fork, so backends do not get it. SIGINT is Postgres's fast shutdown. */
	if (named != NULL && (prctl(PR_SET_PDEATHSIG, SIGINT) != 0 || getppid() != atoi(named))) {
		/* The supervisor died before PDEATHSIG was set, or it started a program that has forked us and waits. */
		(void)dprintf(2, "postgres: FATAL:  started by process %d, and not by pgidle (%s): a script in place of "
				 "postgres must exec it\n", (int)getppid(), named);
		_exit(1);
	}
	if (self != NULL)
		(void)close(atoi(self)); /* this library's file, which is loaded by now */
	if (orders != NULL && pthread_atfork(NULL, NULL, retire) == 0) {
		/* The lowest number that is free: select() takes none above 1023. */
		channel = fcntl(atoi(orders), F_DUPFD_CLOEXEC, 3);
		(void)close(atoi(orders));
		while (given != NULL && *given >= '0' && *given <= '9' && count < MOST) {
			struct listener *one = &listeners[count++];

			*one = (struct listener){.fd = -1, .after = -1, .length = sizeof one->at};
			one->given = (int)strtol(given, &given, 10);
			(void)fcntl(one->given, F_SETFD, FD_CLOEXEC);
			(void)getsockname(one->given, &one->at.any, &one->length);
			given += *given == ',';
		}
		inherited = count;
		supervisor = getppid();
		postmaster = getpid();
		(void)tell(HELLO, VERSION, count, 0, -1);
	}

	/* The programs that Postgres starts (archive_command, COPY PROGRAM) must not inherit any of this. */
	if (others != NULL && *others != '\0')
		setenv("LD_PRELOAD", others, 1);
	else
		unsetenv("LD_PRELOAD");
	unsetenv("PGIDLE_LD_PRELOAD");
	unsetenv("PGIDLE_SUPERVISOR");
	unsetenv("PGIDLE_SHIM");
	unsetenv("PGIDLE_CHANNEL");
	unsetenv("PGIDLE_LISTENERS");
}
