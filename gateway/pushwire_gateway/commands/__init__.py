"""The commands of `pushwire` that are clients of a gateway, and those that look after its files.

Owns nothing itself; cli.py puts the modules' commands together. Only here, in cli.py and in the demo may the gateway's
package use the SDK's Client and Admin.
"""

from __future__ import annotations
