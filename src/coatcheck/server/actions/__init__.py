"""What people do here, the same over every transport: log in and out, register, list and end sessions.

Each takes the worker's services and the request's session, and raises what `problems.problem_of` has words for. Leaves
to REST and GraphQL how it is asked for and how it is shown.
"""
