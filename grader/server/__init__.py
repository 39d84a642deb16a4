"""The preloaded process that answers `grade` at once, and the client that asks it.

    client (grader.entry)      imports next to nothing, prints what it is sent
      └─ session               forked ahead from the base; runs the command for one client
           └─ child            forked ahead from the exercise's zygote; runs the checks
    base (grader.server.base)  torch, pytest and the first-call costs paid; one a user and course
      └─ zygote                forked from the base for each exercise; its suite collected

Linux and CPU only. Wherever this does not answer, the cold path does, with the same verdict.
"""
