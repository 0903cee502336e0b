"""Family: scaling laws, one file each. A law is a value and never holds a fit.

A law of one's own is a file with the same contract, named on the command line:
`scalekit fit data.csv --law mine.py`. Its gradient is compared with its prediction before it is
fitted. This one lets the loss fall with a power of the logarithm of compute:

    import numpy as np

    from scalekit.laws.base import Law, Param, State


    class LogPower(Law):
        def state(self, phi, frame):
            # phi is (S, 3): S points of (ln E, ln A, alpha); the loss is wanted for all n runs.
            log_c = frame.logs["C"] + frame.centre["C"]
            power = np.exp(phi[:, [1]]) * log_c ** -phi[:, [2]]
            total = np.exp(phi[:, [0]]) + power
            return State(np.log(total), phi, frame, (power, total, log_c))

        def jacobian(self, state):
            power, total, log_c = state.parts
            floor = np.exp(state.phi[:, [0]]) * np.ones_like(total)
            return np.stack([floor, power, -np.log(log_c) * power], axis=1) / total[:, None]

        def to_internal(self, theta, centre):
            return np.array([np.log(theta["E"]), np.log(theta["A"]), theta["alpha"]])

        def to_published(self, phi, centre):
            return np.stack([np.exp(phi[..., 0]), np.exp(phi[..., 1]), phi[..., 2]], axis=-1)


    LAW = LogPower(
        name="log_power",
        formula="L = E + A (ln C)^-alpha",
        source="mine",
        inputs=("C",),
        params=(
            Param("E", "log", 1e-5, 1e3, "irreducible loss", (0.1, 3.0)),
            Param("A", "log", 1e-6, 1e12, "amplitude", (1.0, 1e4)),
            Param("alpha", "linear", 0.01, 10.0, "exponent of ln C", (0.5, 4.0)),
        ),
        condition_limit=1e9,
        starts=24,
    )

A sum of powers needs no class: see `chinchilla.py`.
"""
