/*
 * Waits for clients as a postmaster does, and forks for each a child that sends its pid: for another C library than the
 * one that a PostgreSQL at hand was built with, and for tools that slow a real one down too much.
 *
 *     postmaster_like select|epoll PORT PATH
 *
 * SIGTERM and SIGINT end it. Of SIGQUIT it takes no notice, as of a smart shutdown with a session that lasts. SIGUSR1 has it signal a child of its own, as after a crash.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* By which the library knows a Postgres. */
__attribute__((visibility("default"))) void PostmasterMain(void);
void PostmasterMain(void)
{
}

static volatile sig_atomic_t is_asked_to_stop, is_asked_to_kill;

static void on_signal(int number)
{
	if (number == SIGUSR1)
		is_asked_to_kill = 1;
	else if (number != SIGCHLD && number != SIGQUIT)
		is_asked_to_stop = 1;
}

static void serve(int listener)
{
	int client = accept(listener, NULL, NULL);
	char text[32];

	if (client < 0) {
		dprintf(2, "could not accept: %s\n", strerror(errno));
		return;
	}
	if (fork() == 0) {
		int length = snprintf(text, sizeof text, "%d\n", (int)getpid());
		_exit(write(client, text, (size_t)length) != length);
	}
	close(client);
}

int main(int count, char **words)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
	int listeners[] = {socket(AF_INET, SOCK_STREAM, 0), socket(AF_UNIX, SOCK_STREAM, 0)};
	int signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGCHLD, SIGQUIT}, set = -1;
	char lock[128];
	sigset_t blocked, none, before_mask;

	if (count != 4)
		return 2;
	in.sin_port = htons((uint16_t)atoi(words[2]));
	strncpy(un.sun_path, words[3], sizeof un.sun_path - 1);
	snprintf(lock, sizeof lock, "%s.lock", words[3]);
	unlink(lock);
	close(open(lock, O_CREAT | O_EXCL | O_WRONLY, 0600));
	unlink(words[3]);
	if (bind(listeners[0], (struct sockaddr *)&in, sizeof in) != 0 ||
	    bind(listeners[1], (struct sockaddr *)&un, sizeof un) != 0 || listen(listeners[0], 5) != 0 ||
	    listen(listeners[1], 5) != 0) {
		perror("listen");
		return 1;
	}
	for (int i = 0; i < 5; i++)
		sigaction(signals[i], &action, &before);
	sigaction(SIGTERM, NULL, &before);
	if (before.sa_handler != on_signal) {
		dprintf(2, "the handler is another's\n");
		return 1;
	}
	sigfillset(&blocked);
	sigemptyset(&none);
	if (strcmp(words[1], "epoll") == 0) {
		set = epoll_create1(EPOLL_CLOEXEC);
		for (int i = 0; i < 2; i++) {
			struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listeners[i]};
			epoll_ctl(set, EPOLL_CTL_ADD, listeners[i], &event);
		}
	}
	while (!is_asked_to_stop) {
		bool is_ready[2] = {false, false};

		if (set >= 0) {
			struct epoll_event events[8];
			int found = epoll_wait(set, events, 8, 20);

			for (int i = 0; i < found; i++)
				is_ready[(int *)events[i].data.ptr - listeners] = true;
		} else {
			fd_set reading;
			struct timeval timeout = {0, 20000}; /* a signal may come just before the wait */
			int found;

			FD_ZERO(&reading);
			FD_SET(listeners[0], &reading);
			FD_SET(listeners[1], &reading);
			sigprocmask(SIG_SETMASK, &none, NULL);
			found = select(listeners[1] + 1, &reading, NULL, NULL, &timeout);
			sigprocmask(SIG_SETMASK, &blocked, NULL);
			for (int i = 0; found > 0 && i < 2; i++)
				is_ready[i] = FD_ISSET(listeners[i], &reading);
		}
		if (is_asked_to_kill) {
			pid_t child;

			sigprocmask(SIG_SETMASK, &blocked, &before_mask);
			if ((child = fork()) == 0) {
				action.sa_handler = SIG_DFL;
				sigaction(SIGTERM, &action, NULL);
				for (;;)
					sigsuspend(&none);
			}
			sigprocmask(SIG_SETMASK, &before_mask, NULL);
			is_asked_to_kill = 0;
			kill(child, SIGTERM);
		}
		for (int i = 0; i < 2; i++)
			if (is_ready[i])
				serve(listeners[i]);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	close(listeners[0]);
	close(listeners[1]);
	unlink(words[3]);
	unlink(lock);
	return 0;
}
